"""How a study differs from the paper's: in its images, in its size, in anything else."""

from typing import Any

import numpy as np

from dmf.analysis.words import count, listed
from dmf.layout import cells
from dmf.outcomes import SUBSETS
from dmf.settings import Split
from dmf.study import PAPER, PAPER_DATASETS, ReportParameters
from dmf.training.run_record import read_record


def paper_dataset(parameters: ReportParameters, dataset: str) -> str | None:
    """Return which of the paper's sets (busi, busc, bus) ``dataset`` holds, or None.

    Phantom images and the user's own are never one of them, whatever they are named.
    """
    kind = parameters.kinds[dataset]
    return kind if kind in PAPER_DATASETS else None


def training_length(parameters: ReportParameters) -> str:
    """Return how long a training is, in steps where the study counts them, else in epochs."""
    if parameters.steps is not None:
        return count(parameters.steps, "step")
    return count(parameters.epochs, "epoch")


def reductions(parameters: ReportParameters) -> list[str]:
    """Say in which sizes the study is smaller than the paper's; empty for the full study."""
    smaller = [(text, theirs) for text, theirs, larger in _sizes(parameters) if not larger]
    seeds = parameters.grid.seeds
    if seeds < PAPER["seeds"]:  # more seeds are no reduction
        smaller.append((count(seeds, "seed"), PAPER["seeds"]))
    return [
        f"{text} ({'' if place else 'paper '}{theirs})"
        for place, (text, theirs) in enumerate(smaller)
    ]


def enlargements(parameters: ReportParameters) -> list[str]:
    """Say in which sizes the study is larger than the paper's, seeds aside."""
    return [f"{text}, not {theirs}" for text, theirs, larger in _sizes(parameters) if larger]


def is_smaller(parameters: ReportParameters) -> bool:
    """Say whether images, network or training are smaller than the paper's, seeds aside."""
    return any(not larger for *_, larger in _sizes(parameters))


def _sizes(parameters: ReportParameters) -> list[tuple[str, Any, bool]]:
    """Return each size that is not the paper's in words, the paper's, and whether ours is larger.

    A network's size is the sum of its filters.
    """
    pixels, filters = parameters.image_size, parameters.filters
    sizes: list[tuple[str, Any, Any]] = [
        (f"{pixels}-pixel images", pixels, PAPER["image_size"]),
        (f"U-Net filters {filters}", filters, PAPER["filters"]),
    ]
    if parameters.steps is None:  # a given number of steps is another length on every set
        sizes.insert(0, (training_length(parameters), parameters.epochs, PAPER["epochs"]))
    return [
        (text, theirs, bool(np.sum(ours) > np.sum(theirs)))
        for text, ours, theirs in sizes
        if ours != theirs
    ]


def precisions(parameters: ReportParameters) -> list[str]:
    """Return the precisions that the records of the runs, under the working directory, name.

    `precision: auto` is resolved by the machine, so that only the records know it.
    """
    records = (read_record(cell.folder) for cell in cells(parameters.grid))
    named = {str(record["precision"]) for record in records if record and "precision" in record}
    return sorted(named)


def departures(parameters: ReportParameters) -> list[str]:
    """Say in which other ways the study is not the paper's: of the protocol, and in precision.

    The precision of the training is that in the records of the runs, named where it is not fp32.
    """
    lower = [name for name in precisions(parameters) if name != "fp32"]
    rounding = [f"trained in {listed(lower)}, not fp32"] if lower else []
    return rounding + protocol_departures(parameters)


def protocol_departures(parameters: ReportParameters) -> list[str]:
    """Say in which ways the protocol is not the paper's: preset, split, larger sizes, settings."""
    found = []
    if parameters.preset == "released":
        found.append("preset `released`: the published notebook's hard losses")
    if parameters.split.kind == "grouped":
        found.append("duplicate-grouped split (the paper's is taken to be naive)")
    if parameters.split.kind == "given":
        found.append("a given split (the paper's is taken to be random)")
    shares, theirs = (
        "/".join(f"{100 * getattr(split, name):g}" for name in SUBSETS)
        for split in (parameters.split, Split())
    )
    if shares != theirs:
        found.append(f"{shares} % of the images train, validate and test, not {theirs}")
    if not parameters.split.per_seed:
        found.append("one split serves all seeds")
    return found + enlargements(parameters) + [f"`{setting}`" for setting in parameters.changed]


def reduction_head(parameters: ReportParameters) -> str:
    """Say in two words in what a study is smaller than the paper's; empty for the full study."""
    if not reductions(parameters):
        return ""
    return "Reduced study" if is_smaller(parameters) else "Fewer seeds"


def reduction_note(parameters: ReportParameters) -> str:
    """Say that a study is smaller than the paper's, and in what; empty for the full study."""
    reduced = ", ".join(reductions(parameters))
    return f"{reduction_head(parameters)}: {reduced}." if reduced else ""


def settings_note(parameters: ReportParameters) -> str:
    """Return in a few words which study this is: preset, losses, decay, split, sizes, the rest."""
    hard = "losses.kind = hard"
    is_hard = parameters.preset == "released" or hard in parameters.changed
    batches, split = parameters.auxiliary.step_batches, parameters.split
    named = {
        hard,
        f"auxiliary.step_batches = {batches}",
        f"training.steps = {parameters.steps}",
    }
    parts = [
        f"preset {parameters.preset}",
        "hard losses" if is_hard else "soft losses",
        "γ falls every " + ("batch" if batches == 1 else f"{batches} batches"),
        f"{split.kind} split" + ("" if split.per_seed else " for all seeds"),
        training_length(parameters),
        f"{parameters.image_size} px",
        f"filters {parameters.filters[0]} to {parameters.filters[-1]}",
        count(parameters.grid.seeds, "seed"),
        *(setting for setting in parameters.changed if setting not in named),
    ]
    return " · ".join(parts)


def data_note(parameters: ReportParameters, dataset: str) -> str:
    """Return what sets the data or the study apart from the paper's; empty if nothing does."""
    if parameters.kinds[dataset] == "phantom":
        return "Phantom data: synthetic images, not the paper's."
    if paper_dataset(parameters, dataset) is None:
        return "Other data: not one of the paper's sets."
    return reduction_note(parameters)
