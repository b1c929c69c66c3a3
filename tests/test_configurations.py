"""Names of configurations: what they stand for, and that each has one."""

import pytest

from dmf.configurations import (
    factors,
    known_configurations,
    paper_configurations,
    parse_configuration,
)


@pytest.mark.parametrize("name", known_configurations())
def test_configuration_names_round_trip(name: str) -> None:
    configuration = parse_configuration(name)
    assert configuration.name == name
    expected = {"fixed": "none-fixed", "cross_entropy": "none-fixed"}.get(name, name)
    suffix = "_ema" if configuration.smoothed else ""
    assert f"{configuration.auxiliary}-{configuration.weighting}{suffix}" == expected


def test_fixed_has_one_name() -> None:
    assert parse_configuration("none-fixed") == parse_configuration("fixed")
    assert parse_configuration("none-fixed").name == "fixed"
    assert "none-fixed" not in known_configurations()


def test_factors_tell_configurations_apart() -> None:
    assert factors("fixed") == ("none", "fixed")
    assert factors("cb_dice-variance_ema") == ("cb_dice", "variance_ema")
    names = known_configurations()
    assert len({factors(name) for name in names}) == len(names)


def test_the_papers_thirteen_are_known() -> None:
    assert len(paper_configurations()) == 13
    assert set(paper_configurations()) <= set(known_configurations())
