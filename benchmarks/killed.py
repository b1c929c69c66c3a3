"""Whether a training that is killed a hundred times ends with the files of the undisturbed one.

    python benchmarks/killed.py [--kills 100]

SIGKILL comes at random moments: two thirds after an epoch was noted, in training, in a checkpoint
or in the writing of the run folder, the others while the process still starts. Writes
docs/benchmarks/killed.json and killed.md.
"""

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from dmf.data import download, filtering, splits
from dmf.files import sha256_file, write_json, write_text
from dmf.layout import Cell
from dmf.provenance import processor
from dmf.settings import Execution
from dmf.study import Study
from dmf.training.run_record import Run

RESULTS = Path(__file__).parents[1] / "docs/benchmarks"
CONFIGURATION = "cb_dice-bayesian"  # the one with the most state
COMPARED = (
    "history.csv",
    "metrics.json",
    "model.safetensors",
    "best.safetensors",
    "test_counts.csv",
)


def make_run(epochs: int) -> Run:
    """Make data and a split in the working directory, and the run on them."""
    study = Study.from_mapping(
        {
            "study": {"datasets": ["phantom"], "configurations": [CONFIGURATION], "seeds": 1},
            "datasets": {"phantom": {"kind": "phantom", "images": 48, "size": 32}},
            "data": {"image_size": 32},
            "model": {"filters": [4, 8], "batch_norm_momentum": 0.9},
            "training": {"epochs": epochs, "batch_size": 6, "precision": "fp32"},
            "fusion": {"warmup": 3, "window": 5},
        }
    )
    download.download("phantom", study.download_parameters("phantom"), Path())
    filtering.filter_dataset("phantom", study.filter_parameters())
    splits.write_split("phantom", 0, study.split)
    return Run(Cell("phantom", CONFIGURATION, 0), study.run_parameters(CONFIGURATION))


def start(run: Run) -> subprocess.Popen[bytes]:
    """Start the training in a process of its own."""
    command = [str(Path(sys.executable).with_name("dmf")), "train", "phantom", CONFIGURATION, "0"]
    command += ["--parameters", run.parameters.model_dump_json()]
    command += ["--execution", Execution(device="cpu", checkpoint_seconds=0).model_dump_json()]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL)


def wait_for_epochs(process: subprocess.Popen[bytes], history: Path, epochs: int) -> None:
    """Return when ``epochs`` more epochs are in ``history``, or the process has ended."""

    def lines() -> int:
        return len(history.read_text().splitlines()) if history.exists() else 1

    wanted = lines() + epochs
    while process.poll() is None and lines() < wanted:
        time.sleep(0.002)


def main() -> None:
    """Kill, compare and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    chance = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        run = make_run(epochs=2 * options.kills)
        if start(run).wait():
            raise SystemExit("the undisturbed training failed")
        expected = {name: sha256_file(run.cell.folder / name) for name in COMPARED}
        shutil.rmtree(run.cell.folder)

        kills = {"starting": 0, "training": 0}
        while sum(kills.values()) < options.kills:
            process = start(run)
            if chance.random() < 1 / 3:
                moment = "starting"
                time.sleep(chance.uniform(0, 2))
            else:
                moment = "training"
                wait_for_epochs(process, run.cell.live_folder / "history.csv", chance.randint(1, 4))
                time.sleep(chance.uniform(0, 0.03))
            process.send_signal(signal.SIGKILL)
            if process.wait() != -signal.SIGKILL:
                break  # it had ended
            kills[moment] += 1
        if start(run).wait():
            raise SystemExit("the training that had been killed failed")
        equal = {name: sha256_file(run.cell.folder / name) == expected[name] for name in COMPARED}
        left = sorted(str(path) for path in Path(".checkpoints").glob("phantom/*/*"))
        os.chdir("/")
    record = {"device": processor(), "kills": kills, "equal": equal, "left_behind": left}
    write_json(RESULTS / "killed.json", record)
    page = ["# Killed a hundred times", "", (__doc__ or "").split("\n\n")[0], ""]
    page += [
        f"{sum(kills.values())} times SIGKILL on {record['device']}: {kills['training']} while it "
        f"trained or wrote, {kills['starting']} while it started. Regenerate: "
        "`python benchmarks/killed.py`.",
        "",
        "| file | equal to the bit |",
        "|---|---|",
        *(f"| `{name}` | {'yes' if same else 'NO'} |" for name, same in equal.items()),
        "",
        f"Left behind of its checkpoints: {', '.join(left) or 'nothing'}.",
    ]
    write_text(RESULTS / "killed.md", "\n".join(page) + "\n")
    print(record)
    if not all(equal.values()) or left:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
