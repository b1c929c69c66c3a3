"""How the workflow's own cost grows with the number of runs: 390, and ten times as many.

    python benchmarks/scale.py

Builds the graph of the paper's study with 10 and with 100 seeds, lets Snakemake run every job of it
with a command that only makes the files, and asks again when all is there. Then `dmf aggregate`
reads run folders of random numbers. Writes docs/benchmarks/scale.json and .md.
"""

import os
import platform
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml

from dmf.analysis.figures.catalogue import expected
from dmf.files import write_json, write_text
from dmf.study import Study
from tracking import lay_runs, processor

ROOT = Path(__file__).parents[1]
OUTPUT = ROOT / "docs" / "benchmarks"
SEEDS = (10, 100)
PAPER_RUNS = 100_000

# In place of `dmf`: makes what a step promises, and nothing else.
PRETENDER = """#!/bin/sh
case $1 in
download) mkdir -p data/raw/$2; cd data/raw/$2; touch manifest.csv manifest.json;;
filter) touch data/filtered/$2.npz data/filtered/$2.json;;
split) touch data/splits/$2/seed-$(printf %02d $3).csv;;
card) touch reports/data/$2.md;;
train) touch models/$2/$3/seed-$(printf %02d $4)/metrics.json;;
aggregate) cd reports; touch results.csv metrics.json curves.csv;;
figures) cd reports/figures; touch FIGURES;;
report) cd reports; mkdir -p tables; touch index.html report.md tables/all.csv;;
track) touch mlflow/tracked.json;;
esac
"""


def measure(command: list[str], workdir: Path, path: str = "") -> dict[str, Any]:
    """Run ``command``; return its output, wall and processor seconds, and peak memory."""
    environment = {
        **os.environ,
        "PATH": os.pathsep.join(filter(None, (path, os.environ["PATH"]))),
        "PYTHONPATH": str(ROOT / "src"),
    }
    start = time.perf_counter()
    with (workdir / "output").open("w+") as output:
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=output, stderr=subprocess.STDOUT
        )
        # Of this process alone, not of the largest child so far.
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - start
        output.seek(0)
        text = output.read()
    if status:
        raise SystemExit(f"{' '.join(command)} failed:\n{text[-3000:]}")
    return {
        "output": text,
        "seconds": round(seconds, 2),
        "processor_seconds": round(usage.ru_utime + usage.ru_stime, 2),
        "peak_mib": round(usage.ru_maxrss / 1024),
    }


def snakemake(workdir: Path, *arguments: str, path: str = "") -> dict[str, Any]:
    overlay = ("--configfile", str(workdir / "overlay.yaml"))
    command = [sys.executable, "-m", "snakemake", "--cores", "all", *arguments, *overlay]
    return measure(command, workdir, path)


def grow(seeds: int) -> dict[str, Any]:
    """Measure the study of so many seeds, in a folder of its own."""
    with tempfile.TemporaryDirectory() as name:
        workdir = Path(name)
        changes = {"study": {"name": "scale", "workdir": name, "seeds": seeds}}
        write_text(workdir / "overlay.yaml", yaml.safe_dump(changes))
        study = Study.load(ROOT / "params.yaml", workdir / "overlay.yaml")
        figures = " ".join(expected(study.report_parameters()))
        pretender = workdir / "bin/dmf"
        write_text(pretender, PRETENDER.replace("FIGURES", figures))
        pretender.chmod(0o755)

        quiet = ("--quiet", "all", "--scheduler", "greedy")
        found = {
            "load_before": round(os.getloadavg()[0], 2),
            "parse": snakemake(workdir, "--list-rules"),
            "dry_run": snakemake(workdir, "-n", *quiet),
            "execution": snakemake(workdir, *quiet, path=str(pretender.parent)),
            "nothing_to_do": snakemake(workdir),
        }
        if "Nothing to be done" not in found["nothing_to_do"]["output"]:
            raise SystemExit("something is left to be done")
        found["jobs"] = sum(1 for _ in workdir.glob("logs/**/*.log"))
        metadata = workdir.joinpath(".snakemake/metadata").rglob("*")
        found["metadata_mib"] = round(sum(f.stat().st_blocks * 512 for f in metadata) / 2**20, 1)
        lay_runs(workdir, study, full=False)
        command = [sys.executable, "-m", "dmf.cli", "aggregate", "--overlay"]
        found["aggregate"] = measure([*command, str(workdir / "overlay.yaml")], workdir)
        found["runs"] = len(list(workdir.glob("models/*/*/*/metrics.json")))
    for step in found.values():
        if isinstance(step, dict):
            del step["output"]
    return found


STEPS = {
    "parse": "the Snakefile alone (our own code)",
    "dry_run": "dry run, everything to do",
    "nothing_to_do": "nothing to do",
    "execution": "every job, none of which computes",
    "aggregate": "`dmf aggregate` (our own code)",
}


def on_paper(small: dict[str, Any], large: dict[str, Any], a: float, b: float) -> float:
    """Extend the line through two measurements to ``PAPER_RUNS``."""
    return b + (b - a) / (large["runs"] - small["runs"]) * (PAPER_RUNS - large["runs"])


def render(found: dict[str, Any]) -> str:
    """Return the results as a Markdown page."""
    small, large = found["cases"]
    lines = [
        "# What the number of runs costs",
        "",
        f"`python benchmarks/scale.py` on {found['processor']} ({found['cores']} cores), Python "
        f"{found['python']}, Snakemake {found['snakemake']} with the executor plugin for SLURM; "
        "each is one command, imports included. Load is what other processes put on the machine "
        "when the measurement began; the measured processes had the niceness "
        f"{found['niceness']}. Aims for nothing to do: 4 s and 25 s. The last column extends the "
        "line through the two measurements; nobody ran it.",
        "",
        f"| | {small['runs']:,} runs | {large['runs']:,} runs | {PAPER_RUNS:,} runs, on paper |",
        "|:--|--:|--:|--:|",
    ]
    for name, meaning in STEPS.items():
        cells = []
        a, b = small[name], large[name]
        for step in (a, b):
            cells.append(
                f"{step['seconds']:.1f} s ({step['processor_seconds']:.1f} s processor), "
                f"{step['peak_mib']} MiB"
            )
        if name == "execution":  # its time does not lie on a line: see the next row
            cells.append("")
        else:
            seconds = on_paper(small, large, a["processor_seconds"], b["processor_seconds"])
            memory = on_paper(small, large, a["peak_mib"], b["peak_mib"])
            cells.append(f"{seconds:.0f} s processor, {memory / 1024:.1f} GiB")
        lines.append(f"| {meaning} | {' | '.join(cells)} |")
    spent = "processor_seconds"
    a, b = (
        1000 * (case["execution"][spent] - case["dry_run"][spent]) / case["jobs"]
        for case in (small, large)
    )
    lines.append(
        f"| one job, without what it computes | {a:.0f} ms processor | {b:.0f} ms processor | "
        f"{on_paper(small, large, a, b):.0f} ms processor |"
    )
    a, b = small["metadata_mib"], large["metadata_mib"]
    lines += [
        f"| Snakemake's records | {a} MiB | {b} MiB | {on_paper(small, large, a, b):.0f} MiB |",
        f"| load | {small['load_before']} | {large['load_before']} | |",
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    found = {
        "processor": processor(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "snakemake": version("snakemake"),
        "niceness": os.nice(0),
        "cases": [grow(seeds) for seeds in SEEDS],
    }
    write_json(OUTPUT / "scale.json", found)
    write_text(OUTPUT / "scale.md", render(found))
    print(render(found))


if __name__ == "__main__":
    main()
