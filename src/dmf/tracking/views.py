"""What the page of an MLflow experiment shows without set-up: its description, and two views.

A view is what MLflow's own *Share* button saves: an experiment tag that a link names.
"""

import json
from typing import Any

from dmf.analysis.protocol import data_note, settings_note
from dmf.analysis.words import dataset_label
from dmf.study import ReportParameters

SHARED = "mlflow.sharedViewState."
NOTE = "mlflow.note.content"
REPORT = "report.html"

_MEANS: dict[str, Any] = {
    "searchFilter": "tags.kind = 'configuration'",
    "orderByKey": "metrics.`test_dice_mean`",
    "orderByAsc": False,
    "selectedColumns": [
        "attributes.`Duration`",
        "tags.`dice`",
        "tags.`cb_dice`",
        "tags.`foreground_dice`",
        "metrics.`test_dice_mean`",
        "metrics.`seeds`",
        "metrics.`training_seconds_mean`",
    ],
    "columnOrder": [f"tags.`{name}`" for name in ("dice", "cb_dice", "foreground_dice")],
    "columnWidths": {f"tags.`{name}`": 140 for name in ("dice", "cb_dice", "foreground_dice")},
    "chartsSearchFilter": "^test_(dice|cb_dice|foreground_dice)_mean$",
}
_SEEDS: dict[str, Any] = {
    "searchFilter": "tags.kind = 'run'",
    "selectedColumns": [
        "attributes.`Dataset`",
        "attributes.`Duration`",
        "tags.`seed`",
        "metrics.`test_dice`",
        "metrics.`best_epoch`",
    ],
    "groupBy": {
        "aggregateFunction": "average",
        "groupByKeys": [{"mode": "tag", "groupByData": "configuration"}],
    },
    "runsHiddenMode": "SHOW_ALL",
    "chartsSearchFilter": "^(loss/total|validation/(dice|cb_dice)|weight/.*)$",
}
VIEWS = {"means": _MEANS, "seeds": _SEEDS}


def experiment_tags(
    study: ReportParameters, dataset: str, experiment: str, report: str
) -> dict[str, str]:
    """Return the tags of the experiment with the id ``experiment``.

    ``report`` is where MLflow's server has the report, empty if there is none yet.
    """

    def link(name: str, mode: str) -> str:
        return f"#/experiments/{experiment}/runs?viewStateShareKey={name}&compareRunsMode={mode}"

    links = [
        f"[means]({link('means', 'TABLE')})",
        f"[bars of the means]({link('means', 'CHART')})",
        f"[curves of the seeds]({link('seeds', 'CHART')})",
    ]
    if report:
        links.insert(0, f"[report]({report})")
    # MLflow shows the first line; the rest unfolds.
    head = f"**{dataset_label(dataset)}, study {study.grid.name}**"
    about = f"{data_note(study, dataset)} {settings_note(study)}.".strip()
    lines = [" · ".join([head, *links]), about[0].upper() + about[1:]]
    views = {SHARED + name: json.dumps(view) for name, view in VIEWS.items()}
    return {NOTE: "\n\n".join(lines), **views}


def configuration_note(study: ReportParameters, metrics: dict[str, float], seconds: float) -> str:
    """Return the description of a configuration: mean ± std of the test scores, in percent."""
    seeds, diverged = int(metrics["seeds"]), int(metrics["diverged"])
    rows = [
        f"| {name.removeprefix('test_').removesuffix('_mean')} | {mean_and_std(metrics, name)} |"
        for name in metrics
        if name.startswith("test_") and name.endswith("_mean") and "/" not in name
    ]
    lines = [
        f"Mean ± standard deviation over {seeds} seeds of the study's {study.grid.seeds}; "
        f"{diverged} diverged.",
        f"{seconds:,.0f} seconds of training in all." if seconds else "",
        "\n".join(["| test, last epoch | % |", "| --- | --- |", *rows]) if rows else "",
    ]
    return "\n\n".join(line for line in lines if line)


def mean_and_std(metrics: dict[str, float], name: str) -> str:
    """Return ``77.98 ± 2.10`` for the metric ``name`` that ends in ``_mean``."""
    spread = metrics.get(name.removesuffix("_mean") + "_std")
    return f"{100 * metrics[name]:.2f}" + ("" if spread is None else f" ± {100 * spread:.2f}")
