"""The study's run folders against what MLflow holds: once, or again and again."""

import gc
import time
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout

from dmf.errors import DmfError
from dmf.files import read_json, write_json
from dmf.study import ReportParameters
from dmf.tracking.experiment import Experiment, Live
from dmf.tracking.runs import Finished, Slot, read_rows
from dmf.tracking.stores import (
    FOLDER,
    connect,
    is_server,
    may_hold_runs,
    public,
    tracking_uri,
)

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

TRACKED = FOLDER / "tracked.json"
LOCK_SECONDS = 60
REPORT_SECONDS = 10


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
    report: Callable[[str], None] = print,
) -> Summary:
    """Bring every finished run of ``study`` into MLflow; write ``mlflow/tracked.json``.

    Without ``uri`` the store is `MLFLOW_TRACKING_URI` or the study's own SQLite database. With
    ``follow`` running trainings are shown too, looked at every ``interval`` seconds, until all runs
    of the study are finished or the user presses Ctrl-C. ``report`` receives progress.

    A store that cannot be reached loses nothing and raises nothing: the summary says so, and the
    next call delivers the rest. Raises DmfError for an address that MLflow cannot use and, if
    ``strict``, for anything that could not be delivered.
    """
    delivery = _Delivery(study, tracking_uri(uri), report)
    if follow:
        delivery.follow(interval)
    summary = delivery.deliver()
    if strict and summary.failed:
        raise DmfError(summary.message)
    return summary


class _Delivery:
    """Delivers one study to one store, and remembers the trainings it shows."""

    def __init__(
        self, study: ReportParameters, address: str, report: Callable[[str], None]
    ) -> None:
        self.study = study
        self.address = address
        self.report = report
        self.slots = [
            Slot(dataset, configuration, seed)
            for dataset in study.grid.datasets
            for configuration in study.grid.configurations
            for seed in range(study.grid.seeds)
        ]
        self.delivered: set[Slot] = set()
        self._forget()

    def _forget(self) -> None:
        """Drop what is known of the store: it must be asked again."""
        self.client: MlflowClient | None = None
        self.live: dict[Slot, Live] = {}
        self.seen: dict[Slot, str] = {}
        self.experiments: dict[str, Experiment] = {}

    def follow(self, interval: float) -> None:
        """Deliver again and again, with the trainings that go on, until all runs are finished."""
        said = ""
        try:
            while True:
                message = self.deliver(live=True).message
                if message != said:
                    self.report(message)
                    said = message
                if all(slot.is_finished() for slot in self.slots):
                    return
                time.sleep(interval)
        except KeyboardInterrupt:
            self._forget()
            self.report("Stopped following.")

    def deliver(self, *, live: bool = False) -> Summary:
        """Deliver what is finished and not there yet, with ``live`` also running trainings."""
        FOLDER.mkdir(exist_ok=True)
        try:
            with FileLock(FOLDER / ".lock", timeout=LOCK_SECONDS):
                return self._deliver(live)
        except Timeout:
            if not TRACKED.exists():
                write_json(TRACKED, {})
            message = (
                f"Another `dmf track` has been at work here for over {LOCK_SECONDS} s; "
                "this one leaves the runs to it."
            )
            return Summary(len(self.delivered), 0, 0, message)

    def _deliver(self, live: bool) -> Summary:
        finished, problems = self._read_finished()
        damaged = len(problems)
        tracked = _read_tracked()
        store = public(self.address)
        done = tracked.get(store, {}) if may_hold_runs(self.address) else {}
        new = {run.slot for run in finished if done.get(str(run.slot)) != run.version}
        if live:  # a configuration that waits for seeds needs no second look
            new -= {run.slot for run in finished if self.seen.get(run.slot) == run.version}
        training = self._read_training() if live else {}
        failure = ""
        try:
            with _rare_garbage_collection():
                for group in self._deliver_groups(finished, new, training, live, problems):
                    done = done | {str(run.slot): run.version for run in group}
        except Exception as error:  # of whatever type: MLflow must not stop the study
            lines = str(error).strip().splitlines() or [type(error).__name__]
            failure = public(lines[0])
            self._forget()
        notes = tracked | {store: dict(sorted(done.items()))}
        if notes != tracked:
            write_json(TRACKED, notes)
        waiting = len(new - self.delivered) if failure else 0
        readable = len(finished) - (len(problems) - damaged)
        return self._summary(readable, waiting, failure, problems)

    def _deliver_groups(
        self,
        finished: Sequence[Finished],
        new: Set[Slot],
        training: Mapping[Slot, str],
        live: bool,
        problems: list[str],
    ) -> Iterator[list[Finished]]:
        """Deliver by configuration; yield the runs of each that is through.

        Runs whose tables cannot be read are left out and told in ``problems``.
        """
        existing: dict[str, dict[str, list[Run]]] = {}
        said, count = time.monotonic(), len(self.delivered)
        wanted = [slot.group for slot in self.slots if slot in new or slot in training]
        for dataset, configuration in dict.fromkeys(wanted):
            group = [run for run in finished if run.slot.group == (dataset, configuration)]
            going_on = {
                s: key for s, key in training.items() if s.group == (dataset, configuration)
            }
            experiment = self._experiment(dataset)
            if new & {run.slot for run in group} or going_on.keys() - self.live.keys():
                if dataset not in existing:
                    existing[dataset] = experiment.runs()
                present = existing[dataset].get(configuration, [])
                group = [run for run in group if _is_readable(run, problems)]
                if not group and not going_on:
                    continue
                whole = not live or len(group) == self.study.grid.seeds
                self.delivered |= experiment.deliver(
                    configuration, group, going_on, self.live, present, whole=whole
                )
                self.seen |= {run.slot: run.version for run in group}
                if whole:
                    yield group
            for slot in going_on:
                experiment.add_epochs(self.live[slot], read_rows(slot.live_folder / "history.csv"))
            if len(self.delivered) > count and time.monotonic() - said > REPORT_SECONDS:
                said, count = time.monotonic(), len(self.delivered)
                self.report(f"MLflow: {count} runs delivered so far")

    def _experiment(self, dataset: str) -> Experiment:
        if self.client is None:
            self.client = connect(self.address)
        if dataset not in self.experiments:
            self.experiments[dataset] = Experiment(
                self.client, self.study, dataset, serves_artifacts=is_server(self.address)
            )
        return self.experiments[dataset]

    def _read_finished(self) -> tuple[list[Finished], list[str]]:
        """Return the finished runs of the study, and what is wrong with those it cannot read."""
        finished, problems = [], []
        for slot in self.slots:
            if slot.is_finished():
                try:
                    finished.append(Finished.read(slot))
                except DmfError as error:
                    problems.append(str(error))
        return finished, problems

    def _read_training(self) -> dict[Slot, str]:
        """Return the keys of the trainings that go on; forget those begun under another key."""
        keys = {slot: key for slot in self.slots if (key := slot.live_key()) is not None}
        self.live = {s: run for s, run in self.live.items() if keys.get(s, run.key) == run.key}
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
        unfinished = len(self.slots) - finished - len(problems)
        counts += (
            [f"{unfinished} of the study's {len(self.slots)} not finished"] if unfinished else []
        )
        lines = [f"MLflow at {store}: {', '.join(counts)}."]
        if failure:
            lines.append(
                f"MLflow could not take them: {failure}. Nothing is lost, the run folders hold "
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
