"""Which results were made with other settings than the study's, by what they say themselves.

Snakemake knows what it made, and makes it again where a parameter changed. It does not know what
was copied, pulled or put back; and who reads results without it reads whatever lies there.
"""

from base64 import urlsafe_b64encode
from collections.abc import Callable, Container, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pandas as pd

from dmf import layout
from dmf.data import raw, splits
from dmf.data.tables import read_table
from dmf.errors import DmfError
from dmf.files import read_json
from dmf.settings import Settings, Split
from dmf.study import DownloadParameters, Study
from dmf.training.run_record import Run, misfits, read_record, runs, same_parameters

SNAKEMAKE = Path(".snakemake")
ANOTHER_SPLIT = "not the split of these images that the study makes"


def refuse_other_settings(study: Study, root: Path) -> None:
    """Raise DmfError naming the results of other settings, for what reads them without Snakemake.

    They lie there while a changed study is made again, until their turn comes.
    """
    lines = [line for result in _results(study, root) for line in result.problems({"code"})]
    if lines:
        raise DmfError(
            f"{Path.cwd()} holds results of other settings than the study's:\n{listed(lines)}\n"
            "The study's `snakemake` command makes them again. To report what is there without "
            "them, delete them first."
        )


def unnoticed(
    study: Study, root: Path, *, touched: bool = False, raw_only: bool = False
) -> list[str]:
    """Return a line for each result of other settings that Snakemake takes for up to date.

    It has no record of how they were made, or they were put in the place of those that it made.
    Of the latter its own triggers tell changed code and data. ``touched``: it will take all that is
    there; ``raw_only``: the downloads count alone.
    """
    lines: list[str] = []
    for result in _results(study, root):
        if raw_only and not result.path.is_relative_to(layout.RAW):
            continue
        told = () if touched else _told_by_snakemake(result)
        if told is not None:
            lines += result.problems(told)
    return lines


def listed(lines: Sequence[str], shown: int = 20) -> str:
    """Return lines as a message lists them: the first ones, and how many more there are."""
    more = [f"and {len(lines) - shown} more"] if len(lines) > shown else []
    return "\n".join(f"  {line}" for line in [*lines[:shown], *more])


def is_the_split(dataset: str, manifest: pd.DataFrame, seed: int, split: Split) -> bool:
    """Return whether the split of a seed is what the study makes; raises DmfError."""
    table = read_table(layout.split(dataset, seed), ("id", "subset"))
    made = splits.subsets_of(dataset, manifest, seed, split)
    return sorted((row["id"], row["subset"]) for row in table) == sorted(made.to_dict().items())


@dataclass(frozen=True)
class _Result:
    """What the workflow made: a file that it declares, from what, and what speaks against it.

    ``problems`` takes what does not count of a run: `code`, `data` or `split`.
    """

    path: Path
    inputs: tuple[Path, ...]
    parameters: Settings
    problems: Callable[[Container[str]], Sequence[str]]


def _results(study: Study, root: Path) -> Iterator[_Result]:
    """Yield what is there of the study's data, splits and runs."""
    split = study.split.seen_from(root)
    grid, filtering = study.grid, study.filter_parameters()
    found = []
    for dataset in dict.fromkeys([*grid.datasets, *grid.evaluate_on]):
        path, wanted = layout.description(dataset), study.download_parameters(dataset)
        found.append(_Result(path, (), wanted, partial(_other_settings, path, wanted)))
    for dataset in grid.datasets:
        raw_files = (layout.description(dataset), layout.manifest(dataset))
        path = layout.arrays(dataset)
        problems = partial(_other_settings, path, filtering)
        found.append(_Result(path, raw_files, filtering, problems))
        for seed in study.seeds:
            given = split.path(dataset, seed)
            inputs = (*raw_files, *([given] if given else []))
            other = partial(_other_split, dataset, seed, split)
            found.append(_Result(layout.split(dataset, seed), inputs, study.split, other))
    for run in runs(study):
        inputs = (run.cell.arrays, run.cell.split)
        found.append(_Result(run.cell.metrics, inputs, run.parameters, partial(_other_run, run)))
    yield from (result for result in found if result.path.exists())


def _other_settings(path: Path, wanted: Settings, _: Container[str]) -> list[str]:
    """Name a description of other settings; where the archive lay is none of them."""
    try:
        made = read_json(path)["parameters"]
        if isinstance(wanted, DownloadParameters) and hasattr(wanted.source, "archive"):
            made["source"]["archive"] = wanted.source.archive
    except (DmfError, KeyError, TypeError):
        return []  # damaged, which is said when it is read
    try:
        same = type(wanted).model_validate(made) == wanted
    except ValueError:
        same = False
    return [] if same else [f"{path}: made with other settings"]


def _other_split(dataset: str, seed: int, split: Split, _: Container[str]) -> list[str]:
    try:
        same = is_the_split(dataset, raw.read_manifest(dataset), seed, split)
    except (DmfError, OSError):
        return []  # said when it is read
    return [] if same else [f"{layout.split(dataset, seed)}: {ANOTHER_SPLIT}"]


def _other_run(run: Run, apart: Container[str]) -> list[str]:
    record = read_record(run.cell.folder)
    if record is None:
        return []  # damaged
    try:
        differs = [what for what in misfits(run, record) if what not in apart]
    except DmfError:  # what it was trained on is not here
        differs = [] if same_parameters(run, record) else ["parameters"]
    return [f"{run.cell.folder}: of other {' and '.join(differs)}"] if differs else []


def _told_by_snakemake(result: _Result) -> Container[str] | None:
    """Return what of a result Snakemake watches, or None if it will make it again by itself."""
    name = urlsafe_b64encode(str(result.path).encode()).decode()
    made = result.path.stat().st_mtime
    if (SNAKEMAKE / "incomplete" / name).exists() or any(
        path.exists() and path.stat().st_mtime > made for path in result.inputs
    ):
        return None
    try:
        record = read_json(SNAKEMAKE / "metadata" / name)
    except DmfError:
        return ()
    if repr(result.parameters.model_dump_json()) not in (record.get("params") or ()):
        return None
    return {"code", "data", "split"}
