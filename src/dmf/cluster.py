"""The cluster that profiles/slurm submits to: what its site sets, checked before any job."""

import getpass
import re
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationError

from dmf.errors import DmfError
from dmf.settings import Count, Settings
from dmf.validation import explain
from dmf.yaml_files import read_yaml

Word = Annotated[str, Field(pattern=r"^[^\s'\"]+$")]
YEAR = 365 * 24 * 60  # minutes: what "infinite" means here


class Site(Settings):
    """``site.yaml``: every key must be there; null says that this site has no such thing."""

    account: Word | None
    partition: Word | None
    cpu_partition: Word | None
    qos: Word | None
    constraint: Word | None
    gres: Annotated[str, Field(pattern=r"^(gpu(:[A-Za-z0-9_.]+)?:1|shard:[0-9]+)$")] | None
    trainings: Count
    runtime: Count
    mem_mb: Count
    jobs: Count
    status_command: Literal["sacct", "squeue"]

    @property
    def execution(self) -> str:
        """Where trainings run, whatever devices the submitting machine has."""
        return f"{{device: {'cuda' if self.gres else 'cpu'}}}"

    @property
    def common(self) -> dict[str, str]:
        """What every job asks for, by the names the executor plugin gives it."""
        return _quoted(slurm_account=self.account, slurm_partition=self.cpu_partition, qos=self.qos)

    def training(self, longest: int) -> dict[str, str]:
        """What a training asks for, so that no allocation takes more than ``longest`` minutes."""
        doubled = "2 ** (attempt - 1)"
        return {
            **_quoted(slurm_partition=self.partition, constraint=self.constraint, gres=self.gres),
            "mem_mb": f"{self.mem_mb} * {doubled}",
            "runtime": f"min({self.runtime} * {doubled}, {longest // self.trainings})",
        }


def for_profile(path: str) -> tuple[Site, int]:
    """Return the site, and the longest time in minutes that an allocation may take there.

    Ends the process with one message if a value is missing, wrong, or refused by the cluster: an
    exception would drown in Snakemake's list of options.
    """
    try:
        site = read(Path(path))
        try:
            return site, check(site)
        except DmfError as error:
            raise DmfError(f"{path}: {error}") from None
    except DmfError as error:
        sys.exit(f"error: {error}")


def read(path: Path) -> Site:
    """Read and validate ``path``; raises DmfError naming each wrong or missing value."""
    try:
        return Site.model_validate(read_yaml(path) or {})
    except ValidationError as error:
        raise DmfError(f"{path}: not a valid site:\n{explain(error, Site)}") from None


def check(site: Site) -> int:
    """Ask the cluster whether it would take the jobs; return the longest allocation in minutes.

    Nothing is submitted. Raises DmfError naming the value that the cluster refuses.
    """
    limits = {}
    default = ""
    for line in _ask("the cluster", "sinfo", "--noheader", "--format=%P|%l").split():
        name, limit = line.split("|")
        limits[name.rstrip("*")] = _minutes(limit)
        default = name.rstrip("*") if name.endswith("*") else default
    for key, wanted in (("partition", site.partition), ("cpu_partition", site.cpu_partition)):
        if (wanted or default) not in limits:
            raise DmfError(f"{key} = {wanted!r}: this cluster has {', '.join(limits)}")
    longest = limits[site.partition or default]
    if site.trainings * site.runtime > longest:
        raise DmfError(
            f"trainings = {site.trainings}, runtime = {site.runtime}: these trainings take "
            f"{site.trainings * site.runtime} minutes one after the other, but partition "
            f"{site.partition or default} allows {longest}"
        )
    if site.account is not None:
        about = f"account = {site.account!r} (null: there are none)"
        user = getpass.getuser()
        known = _ask(about, "sacctmgr", "-nPs", "list", "user", user, "format=account").split()
        if site.account.lower() not in (name.lower() for name in known):
            raise DmfError(f"{about}: {user} has {', '.join(sorted(set(known))) or 'none'}")
    if site.status_command == "sacct":
        _ask("status_command = 'sacct'", "sacct", "--noheader", "--starttime=now")
    everywhere = {"account": site.account, "qos": site.qos}
    _try({**everywhere, "partition": site.cpu_partition})
    training = {"partition": site.partition, "constraint": site.constraint, "gres": site.gres}
    _try({**everywhere, **training, "mem": str(site.mem_mb)})
    return longest


def _try(options: dict[str, str | None]) -> None:
    given = [f"--{name}={value}" for name, value in options.items() if value is not None]
    _ask("these values together", "sbatch", "--test-only", *given, "--wrap=true")


def _ask(about: str, *command: str) -> str:
    """Return what a SLURM command prints; raises DmfError with its complaint ``about`` a value."""
    try:
        done = subprocess.run(command, capture_output=True, text=True)
    except FileNotFoundError:
        raise DmfError(
            f"`{command[0]}` is not here; this profile is for a machine that can submit to SLURM"
        ) from None
    if done.returncode:
        raise DmfError(f"{about}: `{' '.join(command)}` answers: {done.stderr.strip()}")
    return done.stdout


def _minutes(limit: str) -> int:
    """Return SLURM's [days-][hours:]minutes:seconds in minutes."""
    found = re.fullmatch(r"(?:(\d+)-)?(?:(\d+):)?(\d+):\d+", limit)
    if not found:
        return YEAR
    days, hours, minutes = (int(part or 0) for part in found.groups())
    return (days * 24 + hours) * 60 + minutes


def _quoted(**resources: str | None) -> dict[str, str]:
    """Leave out what is null, and quote the rest: Snakemake would take `all` for a function."""
    return {name: repr(value) for name, value in resources.items() if value is not None}
