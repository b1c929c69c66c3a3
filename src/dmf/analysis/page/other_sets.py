"""How the study's runs score on sets that they were not trained on, as tables of the page."""

from pathlib import Path

import pandas as pd

from dmf import layout
from dmf.analysis.page.comparison_tables import estimate
from dmf.analysis.tables import Cell, Row, Table, percentage, whole
from dmf.analysis.verdict import statistics
from dmf.analysis.verdict.headline import RECOMMENDED
from dmf.analysis.words import dataset_label, label
from dmf.errors import DmfError
from dmf.study import Grid, ReportParameters

SHOWN = {
    "dice": "Dice",
    "foreground_dice": "Foreground Dice",
    "image_foreground_dice": "Foreground Dice per image",
}


def read(grid: Grid) -> pd.DataFrame:
    """Return the scores on the sets of ``grid.evaluate_on``, a row for each of its runs on a set.

    Columns: trained, scored, configuration, seed, and the metrics in [0, 1]; of the last weights.
    Raises DmfError naming a file that is no such table.
    """
    runs = {str(cell): cell for cell in layout.cells(grid)}
    rows = []
    for path in map(layout.evaluations, grid.evaluate_on):
        if not path.exists():
            continue
        for row in _table(path).to_dict("records"):
            cell = runs.get(str(row["run"]))
            if cell is not None and row["weights"] == "last":
                names = {"trained": cell.dataset, "scored": path.stem}
                names |= {"configuration": cell.configuration}
                rows.append(names | {"seed": cell.seed} | {name: row[name] for name in SHOWN})
    return pd.DataFrame(rows, columns=["trained", "scored", "configuration", "seed", *SHOWN])


def tables(scores: pd.DataFrame, parameters: ReportParameters) -> list[Table]:
    """Return a table of the recommended combination, and one of all configurations.

    ``scores`` are those of :func:`read`. The list is empty if there are none.
    """
    if scores.empty:
        return []
    confidence = f"{100 * parameters.report.confidence:g}"
    caption = (
        "Scores on all images of a set that the runs were not trained on, in percent, last epoch, "
        "mean ± standard deviation over seeds. Gain in Dice over fixed weights in points, paired "
        f"by seed, with its {confidence} % interval: it answers for these images and redrawn "
        "training images, not for other sets."
    )
    return [_recommended(scores, caption, parameters), _every(scores, caption, parameters)]


def _recommended(scores: pd.DataFrame, caption: str, parameters: ReportParameters) -> Table:
    """Return a row for each pair of sets: the Dice of both configurations, and the gain."""
    rows = []
    for (trained, scored), pair in scores.groupby(["trained", "scored"], sort=False):
        by_seed = pair.pivot(index="seed", columns="configuration", values="dice")
        names = (dataset_label(str(trained)), dataset_label(str(scored)))
        cells = [
            percentage(100 * by_seed[name].mean(), 100 * by_seed[name].std())
            if name in by_seed
            else Cell()
            for name in ("fixed", RECOMMENDED)
        ]
        gain = _gain(by_seed, RECOMMENDED, parameters.report.confidence)
        rows.append(Row(" → ".join(names), names, [*cells, gain, whole(len(by_seed))]))
    columns = [label("fixed"), label(RECOMMENDED), "Gain", "n"]
    return Table("On other sets", f"Dice. {caption}", ("Trained on", "Scored on"), columns, rows)


def _every(scores: pd.DataFrame, caption: str, parameters: ReportParameters) -> Table:
    """Return a row for each pair of sets and configuration."""
    rows = []
    for (trained, scored), pair in scores.groupby(["trained", "scored"], sort=False):
        by_seed = pair.pivot(index="seed", columns="configuration", values="dice")
        for name in dict.fromkeys(pair["configuration"]):
            mine = pair[pair["configuration"] == name]
            cells = [percentage(100 * mine[m].mean(), 100 * mine[m].std()) for m in SHOWN]
            gain = _gain(by_seed, name, parameters.report.confidence)
            names = (dataset_label(str(trained)), dataset_label(str(scored)), label(name))
            title_of_row = f"{names[0]} → {names[1]}: {names[2]}"
            rows.append(Row(title_of_row, names, [*cells, gain, whole(len(mine))]))
    heads = ("Trained on", "Scored on", "Configuration")
    columns = [*SHOWN.values(), "Gain over fixed", "n"]
    return Table("On other sets, every configuration", caption, heads, columns, rows)


def _gain(by_seed: pd.DataFrame, name: str, confidence: float) -> Cell:
    """Return the difference in Dice to fixed weights, empty where there is none."""
    if name == "fixed" or not {name, "fixed"} <= set(by_seed):
        return Cell()
    differences = (by_seed[name] - by_seed["fixed"]).dropna()
    if differences.empty:
        return Cell()
    found = statistics.paired(differences, confidence=confidence)
    return estimate(
        {"difference": found.difference, "low": found.low, "high": found.high}, "difference"
    )


def _table(path: Path) -> pd.DataFrame:
    """Return a table of scores as it stands in a file; raises DmfError if it is none."""
    try:
        frame = pd.read_csv(path)
        if absent := {"run", "weights", *SHOWN} - set(frame.columns):
            raise ValueError(f"no column {', '.join(sorted(absent))}")
        return frame.astype(dict.fromkeys(SHOWN, "float64"))
    except (ValueError, OSError) as error:
        raise DmfError(
            f"{path} is no table of scores ({error}). Write it anew: dmf evaluate --dataset "
            f"{path.stem}"
        ) from None
