"""What it takes to bring the paper's 390 runs into MLflow's SQLite database, pictures included.

    python benchmarks/tracking.py

Lays 390 run folders of random numbers, once with 12 columns of history (1,200 metrics a run) and
once with all columns a real run has, and delivers them with `dmf.tracking.track` in a process of
its own: into a new database, again with nothing new, and again without its notes of what is there.
Every value is counted afterwards. Writes docs/benchmarks/tracking.json and .md.
"""

import io
import os
import platform
import random
import resource
import sqlite3
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from dmf.files import sha256_json, write_json, write_text
from dmf.layout import cells
from dmf.outcomes import SUBSETS
from dmf.study import Study
from dmf.tracking.curve import training_curve

ROOT = Path(__file__).parents[1]
OUTPUT = ROOT / "docs" / "benchmarks"
METRICS: tuple[str, ...] = (
    "dice",
    "iou",
    "f1",
    "precision",
    "recall",
    "cb_dice",
    "foreground_dice",
    "foreground_iou",
)
EPOCHS = 100
TARGET_SECONDS = 90

DELIVER = """
import sys
from dmf.study import ReportParameters
from dmf.tracking import track
parameters = ReportParameters.model_validate_json(sys.argv[1], strict=False)
summary = track(parameters, strict=True)
print(summary.message, file=sys.stderr)
"""


def columns(configuration: str, full: bool) -> list[str]:
    """Return the columns of a history: 12, or all that a run of ``configuration`` has."""
    names = ["cross_entropy", "iou", "dice"]
    found = [f"{prefix}_{name}" for name in names for prefix in ("loss", "weighted", "weight")]
    if full and not configuration.startswith(("none", "fixed")):
        found += ["loss_auxiliary", "weighted_auxiliary", "gamma"]
    found += ["total", *(["events"] if full else [])]
    return found + [f"validation_{name}" for name in (METRICS if full else ("dice", "cb_dice"))]


def lay_runs(workdir: Path, study: Study, full: bool) -> int:
    """Write every run folder of ``study``; return how many values MLflow should hold of them."""
    rng = random.Random(0)
    values = 0
    for cell in cells(study.grid):
        folder = workdir / cell.folder
        names = columns(cell.configuration, full)
        rows = [
            ",".join([str(epoch), *(repr(rng.random()) for _ in names)])
            for epoch in range(1, EPOCHS + 1)
        ]
        write_text(folder / "history.csv", "\n".join([",".join(["epoch", *names]), *rows]))
        seconds = [f"{epoch},1.5,300.0" for epoch in range(1, EPOCHS + 1)]
        timing = ["epoch,seconds,images_per_second", *seconds]
        write_text(folder / "timing.csv", "\n".join(timing))
        key = sha256_json([cell.dataset, cell.configuration, cell.seed])
        hashes = dict.fromkeys(("arrays", "split", "code", "initial_weights"), key)
        record = {
            "key": key,
            "parameters": study.run_parameters(cell.configuration).model_dump(mode="json"),
            "hashes": hashes,
            "commit": key[:40],
        }
        write_json(folder / "run.json", record)
        kinds = ("", "image_", "batch_")
        scores = {
            subset: {kind + name: rng.random() for kind in kinds for name in METRICS}
            for subset in SUBSETS
        }
        last, best = {"epoch": EPOCHS, **scores}, {"epoch": EPOCHS // 2, **scores}
        outcome = {"status": "complete", "synthetic": True, "last": last, "best": best}
        write_json(folder / "metrics.json", outcome)
        values += EPOCHS * len(names) + 5 * len(METRICS) + 1
    groups = len(study.grid.datasets) * len(study.grid.configurations)
    return values + groups * (2 * (6 * len(METRICS) + 1) + 2)


def deliver(workdir: Path, study: Study) -> dict[str, float]:
    """Deliver in a process of its own; return its wall and processor seconds and peak memory."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    start = time.perf_counter()
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    environment.pop("MLFLOW_TRACKING_URI", None)
    arguments = [sys.executable, "-c", DELIVER, study.report_parameters().model_dump_json()]
    subprocess.run(arguments, cwd=workdir, env=environment, check=True)
    wall = time.perf_counter() - start
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    processor = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    peak = after.ru_maxrss / 1024
    return {
        "seconds": round(wall, 2),
        "processor_seconds": round(processor, 2),
        "peak_mib": round(peak),
    }


def measure(study: Study, full: bool) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as name:
        workdir = Path(name)
        expected = lay_runs(workdir, study, full)
        load = os.getloadavg()[0]
        results = {"delivery": deliver(workdir, study), "nothing_new": deliver(workdir, study)}
        (workdir / "mlflow/tracked.json").unlink()
        results["compared_with_database"] = deliver(workdir, study)
        database = workdir / "mlflow/mlflow.db"
        connection = sqlite3.connect(database)
        ((held,),) = connection.execute("SELECT count(*) FROM metrics")
        ((distinct,),) = connection.execute(
            "SELECT count(*) FROM (SELECT DISTINCT run_uuid, key, step FROM metrics)"
        )
        connection.close()
        if not held == distinct == expected:
            raise SystemExit(f"{held} values, {distinct} different ones, but {expected} expected")
        pictures = sum(1 for _ in (workdir / "mlflow/artifacts").rglob("*.svg"))
        return {
            "per_run": len(columns("cb_dice-variance", full)) * EPOCHS,
            "values": held,
            "pictures": pictures,
            "database_mib": round(database.stat().st_size / 2**20),
            "load_before": round(load, 2),
            **results,
        }


def picture_milliseconds(times: int = 20) -> dict[str, float]:
    """Return what one training curve costs as it is drawn, and what matplotlib would take."""
    names = [name for name in columns("cb_dice-variance", True) if name != "events"]
    rng = random.Random(0)
    history = [
        {"epoch": float(epoch), **{name: rng.random() for name in names}}
        for epoch in range(1, EPOCHS + 1)
    ]

    def with_matplotlib() -> None:
        figure = Figure(figsize=(9, 2.8))
        for axes, prefix in zip(figure.subplots(1, 3), ("loss", "weight_", "valid"), strict=True):
            for name in [name for name in names if name.startswith(prefix)][:4]:
                axes.plot([row[name] for row in history], label=name)
            axes.legend()
        figure.savefig(io.BytesIO(), format="svg")

    found: dict[str, float] = {}
    for label, draw in (
        ("ours", lambda: training_curve(history, "a run")),
        ("matplotlib", with_matplotlib),
    ):
        draw()
        start = time.process_time()
        for _ in range(times):
            draw()
        found[label] = round(1000 * (time.process_time() - start) / times, 1)
    return found


def render(found: dict[str, Any]) -> str:
    """Return the results as a Markdown page."""
    lines = [
        "# Bringing 390 runs into MLflow",
        "",
        f"`python benchmarks/tracking.py` on {found['processor']} ({found['cores']} cores), Python "
        f"{found['python']}, MLflow {found['mlflow']}, SQLite on the local disk. One process; "
        "imports, a new database, means and one picture a run are included. Aim: at most "
        f"{TARGET_SECONDS} s for 1,200 metrics a run. Load is what other processes put on the "
        "machine when the measurement began; the measured process had the niceness "
        f"{found['niceness']}.",
        "",
        "| metrics a run over the epochs | values in all | load | delivery | processor time | "
        "nothing new | compared with the database | peak memory | database |",
        "|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for case in found["cases"]:
        first = case["delivery"]
        lines.append(
            f"| {case['per_run']:,} | {case['values']:,} | {case['load_before']} | "
            f"{first['seconds']:.0f} s | {first['processor_seconds']:.0f} s | "
            f"{case['nothing_new']['seconds']:.1f} s | "
            f"{case['compared_with_database']['seconds']:.1f} s | {first['peak_mib']} MiB | "
            f"{case['database_mib']} MiB |"
        )
    picture = found["picture_milliseconds"]
    lines += [
        "",
        f"One training curve takes {picture['ours']} ms of processor time as it is drawn, and "
        f"would take {picture['matplotlib']} ms with matplotlib.",
    ]
    return "\n".join(lines) + "\n"


def processor() -> str:
    names = [
        line.split(":", 1)[1].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    return names[0] if names else platform.machine()


def main() -> None:
    study = Study.load(ROOT / "params.yaml")
    found = {
        "processor": processor(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "mlflow": version("mlflow"),
        "niceness": os.nice(0),
        "runs": len(study.grid.datasets) * len(study.grid.configurations) * study.grid.seeds,
        "picture_milliseconds": picture_milliseconds(),
        "cases": [measure(study, full) for full in (False, True)],
    }
    write_json(OUTPUT / "tracking.json", found)
    write_text(OUTPUT / "tracking.md", render(found))
    print(render(found))


if __name__ == "__main__":
    main()
