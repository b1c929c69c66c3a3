"""The study's run folders against what MLflow holds: once, or again and again."""

import gc
import time
from collections.abc import Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from filelock import Timeout

from dmf.errors import DmfError, Log
from dmf.files import locked, read_json, sha256_file, write_json
from dmf.layout import HISTORY, MLFLOW, PAGE, TRACKED, Cell, cells
from dmf.study import ReportParameters
from dmf.tracking.experiment import Experiment, Live
from dmf.tracking.runs import Finished, live_key, read_rows
from dmf.tracking.stores import (
    cause,
    connect,
    is_server,
    may_hold_runs,
    public,
    tracking_uri,
)

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

LOCK_SECONDS = 60
LOG_SECONDS = 10
# What MLflow says of a value it cannot take; of anything else the store is the reason.
REFUSED_BY_VALUE = ("INVALID_PARAMETER_VALUE", "BAD_REQUEST")


@dataclass(frozen=True)
class Summary:
    """What a delivery did, in numbers of runs, and in words for the user."""

    delivered: int
    already_there: int
    failed: int
    message: str


def track(
    study: ReportParameters,
    *,
    uri: str | None = None,
    follow: bool = False,
    interval: float = 5.0,
    strict: bool = False,
    log: Log = print,
) -> Summary:
    """Bring every finished run of ``study`` into MLflow; write ``mlflow/tracked.json``.

    Without ``uri`` the store is `MLFLOW_TRACKING_URI` or the study's own SQLite database. With
    ``follow`` running trainings are shown too, looked at every ``interval`` seconds, until all runs
    of the study are finished or the user presses Ctrl-C. ``log`` receives progress.

    A store that cannot be reached loses nothing and raises nothing: the summary says so, and the
    next call delivers the rest. Raises DmfError for an address that MLflow cannot use and, if
    ``strict``, for anything that could not be delivered.
    """
    delivery = _Delivery(study, tracking_uri(uri), log)
    if follow:
        delivery.follow(interval)
    summary = delivery.deliver()
    if strict and summary.failed:
        raise DmfError(summary.message)
    return summary


class _Delivery:
    """Delivers one study to one store, and remembers the trainings it shows."""

    def __init__(self, study: ReportParameters, address: str, log: Log) -> None:
        self.study = study
        self.address = address
        self.log = log
        self.cells = cells(study.grid)
        self.delivered: set[Cell] = set()
        self._forget()

    def _forget(self) -> None:
        """Drop what is known of the store: it must be asked again."""
        self.client: MlflowClient | None = None
        self.live: dict[Cell, Live] = {}
        self.seen: dict[Cell, str] = {}
        self.experiments: dict[str, Experiment] = {}

    def follow(self, interval: float) -> None:
        """Deliver again and again, with the trainings that go on, until all runs are finished."""
        shown = ""
        try:
            while True:
                message = self.deliver(live=True).message
                if message != shown:
                    self.log(message)
                    shown = message
                if all(cell.metrics.exists() for cell in self.cells):
                    return
                time.sleep(interval)
        except KeyboardInterrupt:
            self._forget()
            self.log("Stopped following.")

    def deliver(self, *, live: bool = False) -> Summary:
        """Deliver what is finished and not there yet, with ``live`` also running trainings."""
        try:
            with locked(MLFLOW / ".lock", timeout=LOCK_SECONDS):
                return self._deliver(live)
        except Timeout:
            if not TRACKED.exists():
                write_json(TRACKED, {})
            finished, problems = self._read_finished()
            done = self._done(_read_tracked())
            waiting = sum(done.get(str(run.cell)) != run.version for run in finished)
            failure = f"another delivery is still at work here after {LOCK_SECONDS} s"
            return self._summary(len(finished), waiting, failure if waiting else "", problems)

    def _deliver(self, live: bool) -> Summary:
        finished, problems = self._read_finished()
        damaged = len(problems)
        tracked = _read_tracked()
        done = self._done(tracked)
        new = {run.cell for run in finished if done.get(str(run.cell)) != run.version}
        if live:  # a configuration that waits for seeds needs no second look
            new -= {run.cell for run in finished if self.seen.get(run.cell) == run.version}
        training = self._read_training() if live else {}
        failure = ""
        try:
            with _rare_garbage_collection():
                for group in self._deliver_groups(finished, new, training, live, problems):
                    done = {**done, **{str(run.cell): run.version for run in group}}
                if not live and PAGE.exists() and done.get(PAGE.name) != sha256_file(PAGE):
                    for dataset in self.study.grid.datasets:
                        self._experiment(dataset).describe()
                    done = {**done, PAGE.name: sha256_file(PAGE)}
        except Exception as error:  # of whatever type: MLflow must not stop the study
            failure = cause(error)
            self._forget()
        notes = tracked | {public(self.address): dict(sorted(done.items()))}
        if notes != tracked:
            write_json(TRACKED, notes)
        waiting = len(new - self.delivered) if failure else 0
        readable = len(finished) - (len(problems) - damaged)
        return self._summary(readable, waiting, failure, problems)

    def _deliver_groups(
        self,
        finished: Sequence[Finished],
        new: Set[Cell],
        training: Mapping[Cell, str],
        live: bool,
        problems: list[str],
    ) -> Iterator[list[Finished]]:
        """Deliver by configuration; yield the runs of each that is through.

        Runs whose tables cannot be read, or whose values MLflow refuses, are left out and told in
        ``problems``: one bad run keeps no other out.
        """
        existing: dict[str, dict[str, list[Run]]] = {}
        last, count = time.monotonic(), len(self.delivered)
        wanted = [_group(cell) for cell in self.cells if cell in new or cell in training]
        for dataset, configuration in dict.fromkeys(wanted):
            pair = (dataset, configuration)
            group = [run for run in finished if _group(run.cell) == pair]
            going_on = {cell: key for cell, key in training.items() if _group(cell) == pair}
            experiment = self._experiment(dataset)
            if new & {run.cell for run in group} or going_on.keys() - self.live.keys():
                if dataset not in existing:
                    existing[dataset] = experiment.runs()
                present = existing[dataset].get(configuration, [])
                group = [run for run in group if _is_readable(run, problems)]
                if not group and not going_on:
                    continue
                whole = not live or len(group) == self.study.grid.seeds
                try:
                    self.delivered |= experiment.deliver(
                        configuration, group, going_on, self.live, present, whole=whole
                    )
                except Exception as error:
                    if getattr(error, "error_code", "") not in REFUSED_BY_VALUE:
                        raise  # the store is at fault, and would be for the others
                    said = f"MLflow refuses its values: {cause(error)}"
                    problems += [f"{run.cell.folder}: {said}" for run in group]
                    continue
                self.seen |= {run.cell: run.version for run in group}
                if whole:
                    yield group
            for cell in going_on:
                experiment.add_epochs(self.live[cell], read_rows(cell.live_folder / HISTORY))
            if len(self.delivered) > count and time.monotonic() - last > LOG_SECONDS:
                last, count = time.monotonic(), len(self.delivered)
                self.log(f"MLflow: {count} runs delivered so far")

    def _experiment(self, dataset: str) -> Experiment:
        if self.client is None:
            self.client = connect(self.address)
        if dataset not in self.experiments:
            self.experiments[dataset] = Experiment(
                self.client, self.study, dataset, serves_artifacts=is_server(self.address)
            )
        return self.experiments[dataset]

    def _done(self, tracked: Mapping[str, Mapping[str, str]]) -> Mapping[str, str]:
        """Return run → version of what this store was given, if it can still hold it."""
        return tracked.get(public(self.address), {}) if may_hold_runs(self.address) else {}

    def _read_finished(self) -> tuple[list[Finished], list[str]]:
        """Return the finished runs of the study, and what is wrong with those it cannot read."""
        finished, problems = [], []
        for cell in self.cells:
            if cell.metrics.exists():
                try:
                    finished.append(Finished.read(cell))
                except DmfError as error:
                    problems.append(str(error))
        return finished, problems

    def _read_training(self) -> dict[Cell, str]:
        """Return the keys of the trainings that go on; forget those begun under another key."""
        keys = {cell: key for cell in self.cells if (key := live_key(cell)) is not None}
        self.live = {c: run for c, run in self.live.items() if keys.get(c, run.key) == run.key}
        return keys

    def _summary(
        self, finished: int, waiting: int, failure: str, problems: Sequence[str]
    ) -> Summary:
        delivered = len(self.delivered)
        there = finished - delivered - waiting
        store = public(self.address)
        counts = [f"{delivered} runs delivered", f"{there} already there"]
        counts += [f"{waiting} not delivered"] if waiting else []
        counts += [f"{len(self.live)} in training"] if self.live else []
        unfinished = len(self.cells) - finished - len(problems)
        counts += (
            [f"{unfinished} of the study's {len(self.cells)} not finished"] if unfinished else []
        )
        lines = [f"MLflow at {store}: {', '.join(counts)}."]
        if failure:
            lines.append(
                f"They could not be delivered: {failure}. Nothing is lost, the run folders hold "
                "everything: `dmf track` delivers the rest, once it can."
            )
        lines += problems[:3]
        lines += [f"... and {len(problems) - 3} more such runs"] if len(problems) > 3 else []
        failed = waiting + len(problems)
        return Summary(delivered, there, max(failed, int(bool(failure))), "\n".join(lines))


@contextmanager
def _rare_garbage_collection() -> Iterator[None]:
    """Search the many objects that MLflow makes and drops for cycles less often: it is slow."""
    before = gc.get_threshold()
    gc.set_threshold(50_000, 20, 100)
    try:
        yield
    finally:
        gc.set_threshold(*before)


def _group(cell: Cell) -> tuple[str, str]:
    """Return what the seeds of a configuration share: one MLflow run holds their means."""
    return cell.dataset, cell.configuration


def _is_readable(run: Finished, problems: list[str]) -> bool:
    try:
        run.times(len(run.history()))
    except DmfError as error:
        problems.append(str(error))
        return False
    return True


def _read_tracked() -> dict[str, dict[str, str]]:
    """Return store → run → version of what was delivered; empty if that is not known."""
    try:
        tracked: dict[str, dict[str, str]] = read_json(TRACKED)
    except DmfError:
        return {}
    return tracked
