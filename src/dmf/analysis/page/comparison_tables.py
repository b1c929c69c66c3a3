"""The main table, the table over sets, and the planned comparisons, as tables of the page."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from dmf.analysis.protocol import paper_dataset
from dmf.analysis.results import read, values
from dmf.analysis.tables import Cell, Row, Table, score_tables, signed, whole
from dmf.analysis.verdict.comparisons import FAMILIES, Seeds, compare, mean_of
from dmf.analysis.verdict.headline import Headline, Reading, headline
from dmf.analysis.verdict.mixed import ADAPTIVE_MEAN, mixed_model
from dmf.analysis.verdict.statistics import LEAST_SEEDS, holm
from dmf.analysis.words import (
    EVALUATION_LABELS,
    count,
    dataset_label,
    label,
    listed,
    number,
    p_value,
)
from dmf.configurations import paper_configurations
from dmf.layout import RESULTS
from dmf.outcomes import EVALUATIONS
from dmf.study import ReportParameters

# What the outcome of a comparison is called in tables: whether the first is above the second.
ABOVE = {
    "supported": "above",
    "contradicted": "not above",
    "inconclusive": "undecided",
    "numbers only": "too few seeds",
    "not run": "not run",
}


def outcome_word(outcome: str) -> str:
    """Return what the outcome of a comparison is called where people read it."""
    return ABOVE.get(outcome, outcome)


def verdict_cell(word: str) -> Cell:
    """Return the cell of a word that the page shows as a badge, sorted by the word."""
    return Cell(word, mark="verdict") if word else Cell()


def main_table(
    results: pd.DataFrame, parameters: ReportParameters, dataset: str, found: pd.DataFrame
) -> Table:
    """Return Dice and its difference to fixed weights, the paper's beside both.

    A row per configuration of the study; on other images than the paper's without its columns.
    ``found`` is the table of :func:`~dmf.analysis.verdict.comparisons.compare`.
    """
    scores = {row.label: row.cells[0] for row in score_tables(results, parameters, dataset)[0].rows}
    pairs = found[found["reference"] == "fixed"].set_index("configuration")
    beside = paper_dataset(parameters, dataset) is not None
    columns = ["Here", *["The paper", "Difference"] * beside]
    columns += ["Gain over fixed", *["Gain, paper"] * beside, "Outcome", "n"]
    rows = []
    for name in _ordered(parameters.grid.configurations):
        score = scores[label(name)]
        cells = [replace(score, paper=None, gap="", seeds=None)]
        if beside:
            theirs = score.paper or Cell()
            gap = float(score.value) - float(theirs.value) if score.gap else np.nan
            cells += [theirs, signed(gap)]
        pair = pairs.loc[name].to_dict() if name in pairs.index else {}
        cells += _gains(pair, beside)
        rows.append(Row(label(name), (label(name),), [*cells, whole(score.seeds or 0)]))
    caption = (
        f"{dataset_label(dataset)}: test Dice after the last epoch in percent, mean ± standard "
        "deviation over seeds; gain over fixed weights in points, paired by seed, with its "
        f"{100 * parameters.report.confidence:g} % interval; n: seeds."
    )
    return Table("Main table", caption, ("Configuration",), columns, rows)


def over_sets(
    headlines: Sequence[Headline], pooled: pd.DataFrame, parameters: ReportParameters
) -> Table:
    """Return the difference that answers the study on each set, and over all that may be pooled."""
    rows = []
    for its in headlines:
        reading = its.primary
        name = dataset_label(its.dataset)
        cells = [
            _difference(reading),
            signed(np.nan if its.paper is None else 100 * its.paper),
            verdict_cell(outcome_word(its.outcome)),
            verdict_cell({None: "", True: "robust", False: "depends"}[its.robust]),
            whole(reading.n),
        ]
        rows.append(Row(name, (name,), cells))
    candidate = headlines[0].candidate if headlines else ""
    for together in pooled[pooled["configuration"] == candidate].to_dict("records"):
        kinds = {"gain": "Interquartile mean", "pooled": "Random effects"}
        for column, kind in kinds.items():
            name = f"{kind} over {together['datasets']} sets"
            cells = [estimate(together, column), Cell(), Cell(), Cell(), whole(together["runs"])]
            rows.append(Row(name, (name,), cells))
    caption = (
        f"{label(candidate)} minus fixed weights in test Dice, points, last epoch, paired by seed: "
        "mean and interval; over all sets the interquartile mean with a bootstrap interval, which "
        "is descriptive, and the mean of random effects with the Hartung-Knapp interval. Epochs: "
        "whether the other evaluations agree."
    )
    columns = ["Difference", "The paper", "Outcome", "Epochs", "Runs"]
    return Table("Over all sets", caption, ("Set",), columns, rows)


def evaluations(headline: Headline, parameters: ReportParameters) -> Table:
    """Return the difference that answers the study at every evaluation that the runs have."""
    rows = []
    beside = headline.paper is not None
    adjusted = holm([reading.paper_p for reading in headline.readings.values()])
    for (evaluation, reading), p in zip(headline.readings.items(), adjusted, strict=True):
        name = EVALUATION_LABELS[evaluation]
        excluded = [part.what for part in reading.exclusions if part.excluded]
        told = listed(excluded or ["nothing"]) if reading.exclusions else ""
        against = [Cell() if np.isnan(p) else _p_value(p)] * beside
        cells = [_difference(reading), Cell(told), *against, whole(reading.n)]
        rows.append(Row(name, (name,), cells))
    title = f"{label(headline.candidate)} minus {label(headline.reference).lower()}"
    theirs = f"Its p is Holm's over the {len(rows)} evaluations. " if beside else ""
    caption = (
        f"{title} in test Dice at every evaluation of the same runs: points, paired by seed, with "
        f"the {100 * parameters.report.confidence:g} % interval for other images of the kind. "
        f"Excludes, from {count(LEAST_SEEDS, 'seed')} on: what lies outside the interval; the "
        "paper's gain, if ours differs from it with the errors of both counted. "
        f"{theirs}The last epoch decides; the others say how much hangs on it, and give no verdict."
    )
    columns = ["Difference", "Excludes", *["Less the paper's, p"] * beside, "Seeds"]
    return Table(f"{title}, every evaluation", caption, ("Evaluation",), columns, rows)


def unseen_seeds(results: pd.DataFrame, parameters: ReportParameters, dataset: str) -> list[Table]:
    """Return :func:`evaluations` without the seeds seen before the plan, if five are left."""
    seen = parameters.report.seen_seeds
    if not seen:
        return []
    rest = results[results["seed"] >= seen]
    alone = headline(rest, parameters, dataset, compare(rest, parameters, dataset))
    if alone is None or alone.primary.n < LEAST_SEEDS:
        return []
    table = evaluations(alone, parameters)
    told = f"The first {count(seen, 'seed')} had been seen before the plan was fixed. Without them:"
    title, caption = f"{table.title}, unseen seeds", f"{told} {table.caption}"
    return [replace(table, title=title, caption=caption)]


def _difference(reading: Reading) -> Cell:
    ends = {"gain": reading.difference, "gain_low": reading.low, "gain_high": reading.high}
    return estimate(ends, "gain")


def _ordered(configurations: Sequence[str]) -> list[str]:
    """Return the study's configurations, the paper's first and in its order."""
    paper = [name for name in paper_configurations() if name in configurations]
    return paper + [name for name in configurations if name not in paper]


def _gains(pair: Mapping[Any, Any], beside: bool) -> list[Cell]:
    """Return the cells of a gain over fixed weights, of the paper's, and of the outcome."""
    if not pair:
        return [Cell()] * (2 + beside)
    gain = estimate(pair, "difference") if pair["n"] else Cell()
    paper = pair["paper_difference"]
    theirs = [signed(np.nan if pd.isna(paper) else 100 * paper)] * beside
    return [gain, *theirs, verdict_cell(outcome_word(pair["outcome"]))]


def comparison_tables(
    results: pd.DataFrame, parameters: ReportParameters, dataset: str, found: pd.DataFrame
) -> list[Table]:
    """Return one table of paired differences in Dice per family of planned comparisons.

    ``found`` is the table of :func:`~dmf.analysis.verdict.comparisons.compare`. If there
    are several, all at every evaluation follow; from five seeds on, a mixed model.
    """
    beside = paper_dataset(parameters, dataset) is not None
    columns = ["Difference", "p", "On these images", *["Less the paper's"] * beside, "Wins"]
    columns += ["Effect", "Wilcoxon p", "Seeds needed", "Outcome"]
    made = []
    for family, pairs in found.groupby("family", sort=False):
        rows = []
        for pair in pairs.to_dict("records"):
            name = _pair(pair)
            rows.append(Row(name, (name,), _comparison_cells(pair, beside)))
        title = FAMILIES[str(family)]
        title = title[0].upper() + title[1:]
        caption = (
            f"{title}: paired differences in Dice (points, test, last epoch), their "
            f"{100 * parameters.report.confidence:g} % interval and Holm-adjusted p, for other "
            "images of the kind. On these images: the interval under random splits alone. "
            + "Less the paper's: ours minus the paper's difference, ± its standard error. "
            * beside
            + "Above: the first is better; not above: a gain of the margin is excluded. No outcome "
            "below five seeds, no effect and no Wilcoxon below six. Seeds needed: how many would "
            "decide it, if the difference held."
        )
        made.append(Table(title, caption, ("Configuration",), columns, rows))
    # One comparison alone is the headline, which has such a table of its own.
    if (found["n"] > 0).sum() > 1:
        made.append(_at_every_evaluation(results, parameters, dataset, found))
    together = _together(results, parameters, dataset)
    return [*made, together] if together.rows else made


def _pair(pair: Mapping[Any, Any]) -> str:
    """Return the name of a planned comparison; a reference of fixed weights goes without saying."""
    name = label(pair["configuration"])
    return name if pair["reference"] == "fixed" else f"{name} against {label(pair['reference'])}"


def _at_every_evaluation(
    results: pd.DataFrame, parameters: ReportParameters, dataset: str, found: pd.DataFrame
) -> Table:
    """Return the planned comparisons that were run, a column per evaluation."""
    run = found["n"] > 0
    rows = {_pair(pair): [estimate(pair, "difference")] for pair in found[run].to_dict("records")}
    for evaluation in EVALUATIONS[1:]:
        others = compare(results, parameters, dataset, evaluation=evaluation)[run]
        for pair in others.to_dict("records"):
            rows[_pair(pair)].append(estimate(pair, "difference") if pair["n"] else Cell())
    seeds = {e: Seeds(results, pd.DataFrame(), parameters, dataset, e) for e in EVALUATIONS}
    for name, weights in _means(found[run]).items():
        tests = [
            source.contrast(weights, "dice", limit=0, confidence=parameters.report.confidence)
            for source in seeds.values()
        ]
        rows[name] = [estimate(asdict(test), "difference") if test else Cell() for test in tests]
    caption = (
        "The planned comparisons at every evaluation of the same runs: difference in test Dice in "
        f"points, paired by seed, with its {100 * parameters.report.confidence:g} % interval for "
        "other images of the kind. The last epoch decides; the others give no verdict."
    )
    return Table(
        "Planned comparisons, every evaluation",
        caption,
        ("Configuration",),
        [EVALUATION_LABELS[evaluation].capitalize() for evaluation in EVALUATIONS],
        [Row(name, (name,), cells) for name, cells in rows.items()],
    )


def _means(pairs: pd.DataFrame) -> dict[str, dict[str, float]]:
    """Return the means of the adaptive configurations' gains, as contrasts, by their names."""
    over_fixed = pairs[pairs["family"] == "dmf_over_fixed"]
    same_auxiliary = pairs[pairs["family"] == "weighting_same_auxiliary"]
    chosen = {"": over_fixed}
    if len(same_auxiliary):
        alone = over_fixed[over_fixed["configuration"].str.startswith("none-")]
        chosen[", each against fixed with its auxiliary or none"] = pd.concat(
            [same_auxiliary, alone]
        )
    return {
        f"Mean of {len(some)} adaptive{words}": mean_of(
            [{pair["configuration"]: 1, pair["reference"]: -1} for pair in some.to_dict("records")]
        )
        for words, some in chosen.items()
        if len(some) > 1
    }


def _together(results: pd.DataFrame, parameters: ReportParameters, dataset: str) -> Table:
    """Return all configurations in one mixed model, with the runs of another machine if there."""
    place = parameters.report.extra_studies.format(name=parameters.grid.name, study="other_machine")
    machines = {"this": values(results, dataset, "dice")}
    if (path := Path(place) / RESULTS).exists():
        machines["other"] = values(read(path), dataset, "dice")
    confidence = parameters.report.confidence
    seeds = max((len(table) for table in machines.values()), default=0)
    found = mixed_model(machines, confidence=confidence) if seeds >= LEAST_SEEDS else pd.DataFrame()
    rows = []
    for effect in found.to_dict("records"):
        is_mean = effect["configuration"] == ADAPTIVE_MEAN
        name = "Mean of the adaptive" if is_mean else label(effect["configuration"])
        cells = [estimate(effect, "difference"), _p_value(effect["p"])]
        rows.append(Row(name, (name,), cells))
    caption = (
        "All configurations together: difference in Dice to fixed weights (points, test, last "
        f"epoch) with its {100 * confidence:g} % interval, from a mixed model with a random effect "
        f"of the seed; {count(len(machines), 'machine')}. It answers for these images under random "
        "splits; p is not adjusted."
    )
    return Table(
        "Mixed model of all configurations", caption, ("Configuration",), ["Difference", "p"], rows
    )


def across(found: pd.DataFrame) -> Table | None:
    """Return every configuration over all data sets together, None for a study of one."""
    if found.empty:
        return None
    rows = [
        Row(
            name := label(pooled["configuration"]),
            (name,),
            [
                estimate(pooled, "iqm", ".2f"),
                estimate(pooled, "gain"),
                estimate(pooled, "improvement", ".2f"),
                estimate(pooled, "pooled"),
                whole(pooled["runs"]),
            ],
        )
        for pooled in found.to_dict("records")
    ]
    columns = ["Dice", "Gain over fixed weights", "Probability of improvement"]
    columns += ["Gain, random effects", "Runs"]
    caption = (
        "Interquartile means over all runs of the data sets together, with stratified bootstrap "
        "intervals; in percent and points. Descriptive: runs of redrawn splits are not "
        "independent. Random effects: the gains of the data sets, pooled, with the Hartung-Knapp "
        "interval."
    )
    return Table("Across data sets", caption, ("Configuration",), columns, rows)


def _comparison_cells(pair: Mapping[Any, Any], beside: bool) -> list[Cell]:
    outcome = verdict_cell(outcome_word(pair["outcome"]))
    if not pair["n"]:
        return [Cell()] * (7 + beside) + [outcome]
    return [
        estimate(pair, "difference"),
        _p_value(pair["p_adjusted"]),
        _interval(pair["plain_low"], pair["plain_high"]),
        *[_beside_paper(pair)] * beside,
        Cell(f"{pair['wins']} of {pair['n']}", pair["wins"] / pair["n"]),
        signed(pair["effect"]),
        Cell() if pd.isna(pair["wilcoxon_p"]) else _p_value(pair["wilcoxon_p"]),
        _seeds(pair["seeds_low"], pair["seeds_high"]),
        outcome,
    ]


def estimate(numbers: Mapping[Any, Any], name: str, form: str = "+.2f") -> Cell:
    """Return a value in percent with its interval, from columns ``name``, ``low`` and ``high``."""
    low, high = ("low", "high") if name == "difference" else (f"{name}_low", f"{name}_high")
    cell = signed(100 * numbers[name], form)
    if pd.isna(numbers[name]) or pd.isna(numbers[low]):
        return cell
    ends = (number(100 * numbers[end], form) for end in (low, high))
    return replace(cell, spread=f"[{', '.join(ends)}]")


def _interval(low: float, high: float, form: str = "+.2f") -> Cell:
    """Return an interval in points, sorted by its middle."""
    if pd.isna(low):
        return Cell()
    ends = ", ".join(number(100 * end, form) for end in (low, high))
    return Cell(f"[{ends}]", (low + high) / 2)


def _beside_paper(pair: Mapping[Any, Any]) -> Cell:
    """Return our difference less the paper's, with its standard error."""
    cell = signed(100 * pair["paper_gap"])
    if pd.isna(pair["paper_gap_error"]):
        return cell
    return replace(cell, spread=f"± {100 * pair['paper_gap_error']:.2f}")


def _seeds(low: float, high: float) -> Cell:
    """Return how many seeds would decide a comparison: a range, or nothing."""
    if pd.isna(low):
        return Cell()
    return Cell(f"{low} and more" if pd.isna(high) else f"{low} to {high}", int(low))


def _p_value(p: float) -> Cell:
    return Cell(p_value(p, bare=True), "" if pd.isna(p) else float(p))
