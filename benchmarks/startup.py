"""Seconds from the start of a training job to its first step, and what of it is importing torch.

    python benchmarks/startup.py [--rounds 5] [--jobs 2]

A job of 32 phantom images at 128 x 128 in the paper's network has one step in its first epoch. Jobs
start together, as Snakemake starts them; rounds take turns with a bare `import torch` of as many
processes. Writes docs/benchmarks/startup.json and startup.md.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

from dmf.data import filtering, sources, splits
from dmf.files import write_json, write_text
from dmf.provenance import processor
from dmf.settings import Execution
from dmf.study import Study

RESULTS = Path(__file__).parents[1] / "docs/benchmarks"
IMPORT, READY, STEP = "import torch", "ready for the first step", "first step and validation done"


def make_study() -> Study:
    """Make data and a split in the working directory for one training batch."""
    study = Study.from_mapping(
        {
            "study": {"datasets": ["phantom"], "configurations": ["fixed"], "seeds": 1},
            "datasets": {"phantom": {"kind": "phantom", "images": 46, "size": 128}},
            "training": {"epochs": 1},
        }
    )
    sources.download("phantom", study.download_parameters("phantom"), Path())
    filtering.filter_dataset("phantom", study.filter_parameters())
    splits.write_split("phantom", 0, study.split)
    return study


def start_jobs(command: list[str], jobs: int, lines: dict[str, str]) -> dict[str, float]:
    """Start ``jobs`` processes; return when the last of them had printed each of ``lines``.

    ``lines`` maps what to call a moment to the text that marks it.
    """
    begin = time.perf_counter()
    moments = dict.fromkeys(lines, 0.0)

    def watch(job: subprocess.Popen[str]) -> None:
        assert job.stdout is not None
        for line in job.stdout:
            for name, text in lines.items():
                if text in line:
                    moments[name] = max(moments[name], time.perf_counter() - begin)

    started = []
    for number in range(jobs):
        folder = Path(f"job-{number}")
        folder.mkdir(exist_ok=True)
        if not (folder / "data").exists():
            (folder / "data").symlink_to(Path("data").resolve())
        for made in folder.glob("models/*/*/*/run.json"):
            made.unlink()  # or the run would be adopted
        started.append(subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, text=True))
    # A thread for each: lines must be met when they are printed.
    with ThreadPoolExecutor(jobs) as pool:
        list(pool.map(watch, started))
    if any(job.wait() for job in started):
        raise SystemExit(f"{' '.join(command)} failed")
    return moments


def main() -> None:
    """Measure in turns and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--jobs", type=int, default=2)
    options = parser.parse_args()
    rounds = []
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        study = make_study()
        train = [str(Path(sys.executable).with_name("dmf")), "train", "phantom", "fixed", "0"]
        train += ["--parameters", study.run_parameters("fixed").model_dump_json()]
        train += ["--execution", Execution(device="cpu").model_dump_json()]
        for _ in range(options.rounds):
            bare = [sys.executable, "-c", "import torch; print('there', flush=True)"]
            moments = start_jobs(bare, options.jobs, {IMPORT: "there"})
            moments |= start_jobs(
                train, options.jobs, {READY: "training images", STEP: "epoch 1/1"}
            )
            print(moments)
            rounds.append(moments)
    record = {
        "device": processor(),
        "cores": os.cpu_count(),
        "torch": torch.__version__,
        "jobs": options.jobs,
        "load": os.getloadavg()[0],
        "rounds": rounds,
    }
    write_json(RESULTS / "startup.json", record)
    page = ["# Start-up of a job", "", (__doc__ or "").split("\n\n")[0], ""]
    page += [
        f"{options.jobs} jobs started together on {record['device']} with {record['cores']} cores;",
        f"torch {record['torch']}; {len(rounds)} rounds, load at the end {record['load']:.1f}.",
        "Minimum – median – maximum over the rounds, until the last job was there. Regenerate:",
        "`python benchmarks/startup.py`.",
        "",
        "| moment | seconds |",
        "|---|---|",
    ]
    for name in (IMPORT, READY, STEP):
        found = [moments[name] for moments in rounds]
        middle = statistics.median(found)
        page.append(f"| {name} | {min(found):.1f} – {middle:.1f} – {max(found):.1f} |")
    write_text(RESULTS / "startup.md", "\n".join(page) + "\n")


if __name__ == "__main__":
    main()
