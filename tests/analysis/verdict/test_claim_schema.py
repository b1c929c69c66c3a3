"""The claims are well formed, and malformed ones are refused."""

import pytest
from pydantic import ValidationError

from dmf.analysis.paper.numbers import matching
from dmf.analysis.verdict.claim_schema import Claim, claims
from dmf.configurations import known_configurations


def test_claims_are_well_formed() -> None:
    names = [claim.id for claim in claims()]
    assert len(set(names)) == len(names)
    known = set(known_configurations())
    for claim in claims():
        for field in ("candidates", "among", "family"):
            patterns = getattr(claim.rule, field, [])
            assert set(matching(patterns)) <= known
            assert bool(matching(patterns)) == bool(patterns)


@pytest.mark.parametrize(
    "change",
    [
        {"metrics": ["acuracy"]},
        {"metrics": []},
        {"rule": {"test": "worst", "candidates": ["fixed"]}},
        {"datasets": ["oxford_pets"]},
        {"reference": "fixed"},
    ],
)
def test_a_malformed_claim_is_refused(change: dict[str, object]) -> None:
    claim = {
        "id": "x",
        "place": "p. 1",
        "statement": "s",
        "datasets": ["busi"],
        "metrics": ["dice"],
        "rule": {"test": "difference", "candidates": ["none-*"], "reference": "fixed"},
    }
    Claim.model_validate(claim)
    with pytest.raises(ValidationError):
        Claim.model_validate(claim | change)
