"""One dataset of the study as one MLflow experiment: writes what is missing, removes what is not.

A run's MLflow status tells whether its delivery came to its end: RUNNING until then, FINISHED (or
FAILED, if the training diverged) afterwards. What a broken delivery left is thus recognised, and
made anew.
"""

import statistics
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dmf.configurations import factors
from dmf.files import sha256_json, write_text
from dmf.layout import ARTIFACTS, PAGE, Cell
from dmf.study import ReportParameters
from dmf.tracking.curve import training_curve
from dmf.tracking.inputs import dataset_input
from dmf.tracking.runs import Finished, Point, Row, epoch_metrics, text
from dmf.tracking.views import (
    NOTE,
    REPORT,
    configuration_note,
    experiment_tags,
    mean_and_std,
)

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

CURVE = "training_curve.svg"
# MLflow takes 1,000 metrics, parameters and tags a request; 100 are left to the latter two.
METRICS_PER_REQUEST = 900
PARENT = "mlflow.parentRunId"
SERVED = "mlflow-artifacts:/"
FILES = "/api/2.0/mlflow-artifacts/artifacts"  # where a server has what is SERVED
SUMMARISED = ("dice", "cb_dice", "foreground_dice")  # mean ± std as tags, which can be columns


@dataclass
class Live:
    """The MLflow run of a training that goes on, and the epochs it has received."""

    run_id: str
    key: str
    sent: list[Row] = field(default_factory=list)


class Experiment:
    """The MLflow experiment `<study>/<dataset>`, made if there is none.

    With ``serves_artifacts`` pictures are sent to the server. Otherwise they are written to
    `mlflow/artifacts`, by locations relative to it, so that the study can be moved.
    """

    def __init__(
        self,
        client: "MlflowClient",
        study: ReportParameters,
        dataset: str,
        *,
        serves_artifacts: bool,
    ) -> None:
        self.client = client
        self.study = study
        self.dataset = dataset
        name = f"{study.grid.name}/{dataset}"
        found = client.get_experiment_by_name(name)
        is_new = found is None
        if found is None:
            location = None if serves_artifacts else SERVED + name
            kind = {"mlflow.experimentKind": "custom_model_development"}
            found = client.get_experiment(client.create_experiment(name, location, kind))
        elif found.lifecycle_stage == "deleted":
            client.restore_experiment(found.experiment_id)
        self.id = found.experiment_id
        relative = not serves_artifacts and found.artifact_location.startswith(SERVED)
        self.artifacts = (
            ARTIFACTS / found.artifact_location.removeprefix(SERVED) if relative else None
        )
        self.location = found.artifact_location
        if is_new:
            self.describe()

    def describe(self) -> None:
        """Write the experiment's description and views, and bring the report, if it is there."""
        report = ""
        if PAGE.exists() and self.location.startswith(SERVED):
            report = f"{FILES}/{self.location.removeprefix(SERVED)}/{REPORT}"
            page = PAGE.read_text(encoding="utf-8")
            if self.artifacts is not None:
                write_text(self.artifacts / REPORT, page)
            else:
                self._upload(page)
        for key, value in experiment_tags(self.study, self.dataset, self.id, report).items():
            self.client.set_experiment_tag(self.id, key, value)

    def _upload(self, page: str) -> None:
        """Send the report to the server, beside the artifacts of the experiment's runs."""
        from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

        with tempfile.TemporaryDirectory() as folder:
            copy = Path(folder) / REPORT
            write_text(copy, page)
            uri = self.client.tracking_uri
            store: Any = get_artifact_repository(self.location, tracking_uri=uri)
            store.log_artifact(str(copy))

    def runs(self) -> "dict[str, list[Run]]":
        """Return what MLflow holds of the study's runs here, by configuration."""
        found: dict[str, list[Run]] = {}
        token: str | None = None
        while token != "":
            page = self.client.search_runs(
                [self.id],
                f"tags.study = '{self.study.grid.name}'",
                max_results=1000,
                page_token=token,
            )
            for run in page:
                found.setdefault(run.data.tags["configuration"], []).append(run)
            token = page.token or ""
        return found

    def deliver(
        self,
        configuration: str,
        finished: Sequence[Finished],
        training: Mapping[Cell, str],
        live: dict[Cell, Live],
        existing: "Sequence[Run]",
        *,
        whole: bool,
    ) -> set[Cell]:
        """Make MLflow hold each run of a configuration once; return the finished ones it lacked.

        What is ``existing`` and complete stays. The rest is delivered, and then what it replaces is
        deleted. Runs in ``training`` (with their keys) get an MLflow run to add epochs to, in
        ``live``, which becomes the final one if the finished folder agrees with it. The means over
        the seeds are logged if ``whole``.
        """
        members = sha256_json(sorted(run.version for run in finished))
        parents = [run for run in existing if run.data.tags["kind"] == "configuration"]
        usable = next((run for run in parents if _is_usable(run, members)), None)
        start = min((run.span()[0] for run in finished), default=None)
        parent = usable.info.run_id if usable else self._create(configuration, None, start=start)
        kept, delivered = {parent}, set()
        for run in finished:
            known = [r for r in existing if r.data.tags.get("seed") == str(run.cell.seed)]
            same = [r for r in known if r.data.tags.get("version") == run.version]
            complete = [r.info.run_id for r in same if _is_complete(r)]
            if complete:
                kept.add(complete[0])
                continue
            begun = live.pop(run.cell, None)
            if begun and begun.run_id not in {r.info.run_id for r in known}:
                begun = None
            kept.add(self._deliver_run(run, parent, begun))
            delivered.add(run.cell)
        for cell, key in training.items():
            known = [r for r in existing if r.data.tags.get("seed") == str(cell.seed)]
            kept |= {r.info.run_id for r in known if _is_complete(r)}
            if cell not in live:
                tags = {PARENT: parent, "status": "running"}
                live[cell] = Live(self._create(configuration, cell.seed, tags), key)
            kept.add(live[cell].run_id)
        handled = {str(cell.seed) for cell in (*training, *(run.cell for run in finished))}
        for other in existing:
            tags, run_id = other.data.tags, other.info.run_id
            of_a_seed = tags["kind"] == "run"
            if run_id not in kept and (not of_a_seed or tags["seed"] in handled):
                self.client.delete_run(run_id)
            elif of_a_seed and tags.get(PARENT) != parent:
                self.client.set_tag(run_id, PARENT, parent)
        if whole and not (usable and _is_complete(usable)):
            self._finish_parent(parent, finished, members)
        return delivered

    def add_epochs(self, live: Live, history: Sequence[Row]) -> None:
        """Log the epochs that a running training has added to its ``history``."""
        rows, now = history[len(live.sent) :], _now()
        if rows:
            self._log(live.run_id, [(now, int(row["epoch"]), epoch_metrics(row)) for row in rows])
            live.sent += rows

    def _deliver_run(self, run: Finished, parent: str, begun: Live | None) -> str:
        """Log one run whole, or the rest of what ``begun`` holds, and end it."""
        history = run.history()
        times, (start, end) = run.times(len(history)), run.span()
        configuration, seed, tags = run.cell.configuration, run.cell.seed, run.tags()
        agrees = begun is not None and begun.key == run.record["key"]
        if begun and agrees and begun.sent == history[: len(begun.sent)]:
            run_id, sent = begun.run_id, len(begun.sent)
        else:
            run_id, sent = self._create(configuration, seed, {PARENT: parent, **tags}, start), 0
            tags = {}
        points: list[Point] = [
            (moment, int(row["epoch"]), epoch_metrics(row))
            for moment, row in zip(times, history, strict=True)
        ]
        # Validation has its curve, whose end is the last epoch's.
        final = {k: v for k, v in run.metrics().items() if not k.startswith("validation/")}
        points.append((end, 0, final))
        self._log(run_id, points[sent:], run.parameters(), tags)
        self.client.log_inputs(run_id, [dataset_input(run)])
        picture = training_curve(history, str(run.cell))
        if self.artifacts is None:
            self.client.log_text(run_id, picture, CURVE)
        else:
            write_text(self.artifacts / run_id / "artifacts" / CURVE, picture)
        self.client.set_terminated(run_id, "FAILED" if run.diverged else "FINISHED", end)
        return run_id

    def _finish_parent(self, parent: str, finished: Sequence[Finished], members: str) -> None:
        """Log mean and standard deviation over seeds, and end the run of the configuration."""
        values: dict[str, list[float]] = {}
        for run in finished:
            for name, value in run.metrics().items():
                values.setdefault(name, []).append(value)
        metrics = {f"{name}_mean": statistics.fmean(found) for name, found in values.items()}
        metrics |= {
            f"{name}_std": statistics.stdev(found)
            for name, found in values.items()
            if len(found) > 1
        }
        diverged = sum(run.diverged for run in finished)
        metrics |= {"seeds": len(finished) - diverged, "diverged": diverged}
        synthetic = any(run.outcome.get("synthetic") for run in finished)
        note = configuration_note(self.study, metrics, sum(sum(run.seconds()) for run in finished))
        if synthetic:
            note += "\n\nSynthetic images: this says nothing about ultrasound."
        tags = {"members": members, "synthetic": text(synthetic), NOTE: note}
        for name in SUMMARISED:
            if f"test_{name}_mean" in metrics:
                tags[name] = mean_and_std(metrics, f"test_{name}_mean")
        end = max(run.span()[1] for run in finished)
        self._log(parent, [(end, 0, metrics)], finished[0].parameters(), tags)
        self.client.log_inputs(parent, [dataset_input(finished[0])])
        self.client.set_terminated(parent, "FINISHED", end)

    def _create(
        self,
        configuration: str,
        seed: int | None,
        tags: Mapping[str, str] | None = None,
        start: int | None = None,
    ) -> str:
        """Start the MLflow run of a seed, or of the whole configuration; return its id."""
        auxiliary, weighting = factors(configuration)
        kind = "configuration" if seed is None else "run"
        labels = {
            "kind": kind,
            "study": self.study.grid.name,
            "preset": self.study.preset,
            "dataset": self.dataset,
            "configuration": configuration,
            "auxiliary": auxiliary,
            "weighting": weighting,
            "mlflow.source.name": "dmf track" if seed is None else "dmf train",
            **({} if seed is None else {"seed": str(seed)}),
            **(tags or {}),
        }
        name = configuration if seed is None else f"{configuration} seed {seed:02d}"
        run_id: str = self.client.create_run(self.id, start, labels, name).info.run_id
        return run_id

    def _log(
        self,
        run_id: str,
        points: Iterable[Point],
        parameters: Mapping[str, str] | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> None:
        """Log points in as few requests as MLflow allows, parameters and tags with the first."""
        from mlflow.entities import Metric, Param, RunTag

        metrics = [
            Metric(name, value, moment, step)
            for moment, step, values in points
            for name, value in values.items()
        ]
        first = [Param(key, value) for key, value in (parameters or {}).items()]
        labels = [RunTag(key, value) for key, value in (tags or {}).items()]
        for start in range(0, max(len(metrics), 1), METRICS_PER_REQUEST):
            batch = metrics[start : start + METRICS_PER_REQUEST]
            self.client.log_batch(run_id, batch, *(() if start else (first, labels)))


def _now() -> int:
    return round(1000 * time.time())


def _is_complete(run: "Run") -> bool:
    return run.info.status in ("FINISHED", "FAILED")


def _is_usable(parent: "Run", members: str) -> bool:
    """Return whether the run of a configuration is right as it is, or still empty."""
    if _is_complete(parent):
        return bool(parent.data.tags.get("members") == members)
    return not parent.data.metrics and not parent.data.params
