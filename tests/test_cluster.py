"""What a site may set, what it is told otherwise, and what jobs then ask for; no SLURM needed."""

from pathlib import Path

import pytest
import yaml

from dmf.cluster import Site, check, for_profile, read
from dmf.errors import DmfError

SITE = {
    "account": "lab",
    "partition": "gpu",
    "cpu_partition": "all",
    "qos": None,
    "constraint": None,
    "gres": "gpu:a100:1",
    "trainings": 10,
    "runtime": 30,
    "mem_mb": 3000,
    "jobs": 100,
    "status_command": "sacct",
}


def write(folder: Path, **values: object) -> Path:
    path = folder / "site.yaml"
    path.write_text(yaml.safe_dump({**SITE, **values}))
    return path


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands that answer as those of a cluster with accounts do."""
    answers = {
        "sinfo": "gpu*|2-12:00:00\\nall|infinite",
        "sacctmgr": "lab\\nteaching\\nlab",
        "sacct": "",
        "sbatch": "",
    }
    for name, answer in answers.items():
        command = tmp_path / "bin" / name
        command.parent.mkdir(exist_ok=True)
        command.write_text(f"#!/bin/sh\nprintf '{answer}'\n")
        command.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"acount": "lab"}, "acount: unknown key. Did you mean 'account'?"),
        ({"runtime": -5}, "runtime = -5: should be greater than or equal to 1"),
        ({"runtime": "1h"}, "runtime = '1h': should be a valid integer"),
        ({"partition": "a b"}, "partition = 'a b': String should match"),
        ({"gres": "gpu:2"}, "gres = 'gpu:2': String should match"),
        ({"status_command": "qstat"}, "status_command = 'qstat': should be 'sacct' or"),
    ],
)
def test_wrong_values_are_named(values: dict[str, object], message: str, tmp_path: Path) -> None:
    path = write(tmp_path, **values)
    with pytest.raises(SystemExit) as stopped:
        for_profile(str(path))
    assert str(stopped.value).startswith(f"error: {path}: not a valid site:\n")
    assert message in str(stopped.value)


def test_each_missing_value_is_named(tmp_path: Path) -> None:
    (tmp_path / "site.yaml").write_text("account: null\n")
    with pytest.raises(DmfError) as refused:
        read(tmp_path / "site.yaml")
    for name in set(SITE) - {"account"}:
        assert f"  {name}: missing" in str(refused.value)
    assert "account" not in str(refused.value)


def test_without_slurm_that_is_what_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(DmfError, match="`sinfo` is not here"):
        check(Site.model_validate(SITE))


@pytest.mark.usefixtures("cluster")
def test_an_account_must_be_one_of_the_users() -> None:
    assert check(Site.model_validate(SITE)) == (2 * 24 + 12) * 60
    assert check(Site.model_validate({**SITE, "partition": "all"})) == 365 * 24 * 60
    with pytest.raises(DmfError, match=r"account = 'lap' .* has lab, teaching$"):
        check(Site.model_validate({**SITE, "account": "lap"}))


def test_jobs_ask_for_what_the_site_says() -> None:
    site = Site.model_validate(SITE)
    assert site.common == {"slurm_account": "'lab'", "slurm_partition": "'all'"}
    training = site.training(longest=600)
    assert training["gres"] == "'gpu:a100:1'"
    assert (training["slurm_partition"], site.execution) == ("'gpu'", "{device: cuda}")

    def value(name: str, attempt: int) -> int:
        return int(eval(training[name], {"attempt": attempt, "min": min}))

    assert [value("mem_mb", attempt) for attempt in (1, 2, 3)] == [3000, 6000, 12000]
    assert [value("runtime", attempt) for attempt in (1, 2, 3)] == [30, 60, 60]  # ten take 600


def test_a_cluster_without_gpus_trains_on_cpus() -> None:
    site = Site.model_validate({**SITE, "gres": None})
    assert "gres" not in site.training(longest=600)
    assert site.execution == "{device: cpu}"
