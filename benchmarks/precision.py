"""Whether bf16 gives the scores of fp32: the same runs in both, seed by seed.

    python benchmarks/precision.py [--device cuda] [--seeds 5]

Trains the demo's runs of two configurations (phantom images, a small network) in a temporary
folder, once in each precision. A CPU without native bf16 computes it too, slowly, with the same
rounding. Writes docs/benchmarks/precision-<device>.json and precision.md.
"""

import argparse
import os
import statistics
import tempfile
from pathlib import Path
from typing import Any

import torch

from dmf.analysis.verdict.statistics import paired
from dmf.data import download, filtering, splits
from dmf.files import read_json, write_json, write_text
from dmf.layout import Cell
from dmf.provenance import processor
from dmf.settings import Execution
from dmf.study import Study
from dmf.training.run_record import Run
from dmf.training.train import train

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "docs/benchmarks"
CONFIGURATIONS = ("fixed", "cb_dice-variance")
PRECISIONS = ("fp32", "bf16")
METRICS = {"dice": "Dice", "foreground_dice": "foreground Dice", "iou": "IoU"}


def train_all(study: Study, device: str, seeds: int) -> list[dict[str, Any]]:
    """Train every run in both precisions; return their test scores, a row for each."""
    (dataset,) = study.grid.datasets
    download.download(dataset, study.download_parameters(dataset), Path())
    filtering.filter_dataset(dataset, study.filter_parameters())
    rows = []
    for seed in range(seeds):
        splits.write_split(dataset, seed, study.split)
        for configuration in CONFIGURATIONS:
            for precision in PRECISIONS:
                usual = study.run_parameters(configuration)
                training = usual.training.model_copy(update={"precision": precision})
                parameters = usual.model_copy(update={"training": training})
                run = Run(Cell(dataset, configuration, seed), parameters)
                train(run, Execution.model_validate({"device": device}), lambda line: None)
                scores = read_json(run.cell.metrics)["last"]["test"]
                kept = {name: scores[name] for name in METRICS}
                rows.append(
                    {"configuration": configuration, "seed": seed, "precision": precision, **kept}
                )
                print(rows[-1], flush=True)
    return rows


def main() -> None:
    """Train all runs and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--seeds", type=int, default=5)
    options = parser.parse_args()
    study = Study.load(ROOT / "params.yaml", ROOT / "config/demo.yaml")
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        rows = train_all(study, options.device, options.seeds)
    cuda = options.device == "cuda"
    record = {
        "device": torch.cuda.get_device_name() if cuda else processor(),
        "torch": torch.__version__,
        "epochs": study.training.epochs,
        "runs": rows,
    }
    kind = "cuda" if cuda else torch.backends.cpu.get_cpu_capability().lower()
    write_json(RESULTS / f"precision-{kind}.json", record)
    page = ["# Precision", "", (__doc__ or "").split("\n\n")[0], ""]
    page += [
        "Test scores after the last epoch on phantom images (synthetic), in percent: mean ±",
        "standard deviation over seeds; the difference bf16 minus fp32 of the same seeds with its",
        "95 % interval. Regenerate: `python benchmarks/precision.py`.",
        "",
    ]
    for path in sorted(RESULTS.glob("precision-*.json")):
        page += _section(read_json(path))
    write_text(RESULTS / "precision.md", "\n".join(page) + "\n")


def _section(record: dict[str, Any]) -> list[str]:
    seeds = len({row["seed"] for row in record["runs"]})
    lines = [
        f"## {record['device']}, torch {record['torch']}, {seeds} seeds, {record['epochs']} epochs",
        "",
        "| configuration | metric | fp32 | bf16 | difference |",
        "|---|---|---|---|---|",
    ]
    for configuration in CONFIGURATIONS:
        for metric, label in METRICS.items():
            fp32, bf16 = (
                [
                    100 * row[metric]
                    for row in record["runs"]
                    if (row["configuration"], row["precision"]) == (configuration, precision)
                ]
                for precision in PRECISIONS
            )
            test = paired([two - one for one, two in zip(fp32, bf16, strict=True)])
            cells = (f"{statistics.mean(x):.2f} ± {statistics.stdev(x):.2f}" for x in (fp32, bf16))
            lines.append(
                f"| {configuration} | {label} | {' | '.join(cells)} | "
                f"{test.difference:+.2f} ({test.low:+.2f} to {test.high:+.2f}) |"
            )
    return [*lines, ""]


if __name__ == "__main__":
    main()
