"""What the data steps cost on BUSI, which duplicates they find, and what a naive split leaks.

    DMF_BUSI_ARCHIVE=Dataset_BUSI.zip python benchmarks/data.py [--known FILE]

`--known` compares with a list of duplicate groups found by somebody else: JSON, lists of names such
as "benign (1)". Writes docs/benchmarks/data.json and data.md.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from itertools import combinations
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd

from dmf.data import duplicates, raw, splits
from dmf.settings import Split
from dmf.study import Study

REPOSITORY = Path(__file__).resolve().parents[1]
OUTPUT = REPOSITORY / "docs" / "benchmarks"
SEEDS = 10
THRESHOLDS = (0.5, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995)

STEPS = {
    "download": "sources.download('busi', study.download_parameters('busi'), Path.cwd())",
    "filter": "filtering.filter_dataset('busi', study.filter_parameters())",
    "split (10 seeds)": "[splits.write_split('busi', seed, study.split) for seed in range(10)]",
}
STEP = """
from pathlib import Path
from dmf.data import filtering, sources, splits
from dmf.study import Study
study = Study.load(Path({params!r}))
{call}
"""


def costs(params: Path) -> dict[str, dict[str, float]]:
    """Run each step in a process of its own: seconds, CPU seconds and MiB at the most."""
    measured = {}
    for name, call in STEPS.items():
        code = STEP.format(params=str(params), call=call)
        start = time.perf_counter()
        process = subprocess.Popen([sys.executable, "-c", code])
        _, status, usage = os.wait4(process.pid, 0)
        if status:
            sys.exit(f"the step {name!r} failed")
        measured[name] = {
            "seconds": round(time.perf_counter() - start, 1),
            "cpu_seconds": round(usage.ru_utime + usage.ru_stime, 1),
            "mebibytes": round(usage.ru_maxrss / 1024),
        }
    return measured


def linked(manifest: pd.DataFrame, pairs: pd.DataFrame) -> tuple[np.ndarray, set[tuple[str, str]]]:
    """Return the groups that pairs make, and all pairs of images that share one."""
    groups = duplicates.groups(len(manifest), pairs)
    members = manifest["id"].groupby(groups).agg(list)
    return groups, {pair for ids in members for pair in combinations(sorted(ids), 2)}


def found(manifest: pd.DataFrame, pairs: pd.DataFrame, known: set[tuple[str, str]]) -> list[Any]:
    """Return a row per threshold: what it finds, and what of it is known."""
    rows = []
    for threshold in THRESHOLDS:
        groups, same = linked(manifest, pairs[pairs["correlation"] > threshold])
        size = pd.Series(groups).groupby(groups).transform("size")
        row = {
            "threshold": threshold,
            "pairs": len(same),
            "groups": int(pd.Series(groups)[size > 1].nunique()),
            "images": int((size > 1).sum()),
            "leaked by the naive split": leaks(manifest.assign(group=groups), "naive")[
                "leaked, mean"
            ],
        }
        if known:
            row |= {
                "recall of the known": len(same & known) / len(known),
                "precision against the known": len(same & known) / len(same),
            }
        rows.append(row)
    return rows


def leaks(manifest: pd.DataFrame, kind: str) -> dict[str, float]:
    """Return test images with a duplicate elsewhere (mean, std) and pairs that are separated."""
    split = Split.model_validate({"kind": kind})
    subsets = [splits.assign(manifest, seed, split) for seed in range(SEEDS)]
    images = [splits.leaked_images(manifest, s) for s in subsets]
    return {
        "test images": int((subsets[0] == "test").sum()),
        "leaked, mean": float(np.mean(images)),
        "leaked, std": float(np.std(images, ddof=1)),
        "pairs separated": float(np.mean([splits.separated_pairs(manifest, s) for s in subsets])),
    }


def known_pairs(path: Path, ids: set[str]) -> set[tuple[str, str]]:
    """Return the pairs of a list of groups, as far as the images are in the set."""
    groups = [
        [n.replace(" (", "_").rstrip(")") for n in names] for names in json.loads(path.read_text())
    ]
    return {pair for g in groups for pair in combinations(sorted(ids.intersection(g)), 2)}


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Run the steps in a folder of their own and look at what they made."""
    params = REPOSITORY / "params.yaml"
    results: dict[str, Any] = {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, OpenCV {cv2.__version__}",
        "load": round(os.getloadavg()[0], 1),
        "costs": costs(params),
    }
    manifest = raw.read_manifest("busi")
    prints = [duplicates.fingerprint(image) for image, _ in raw.read_images("busi", manifest, 2)]
    pairs = duplicates.find(prints, manifest["sha256"].tolist(), min(THRESHOLDS))
    known = known_pairs(options.known, set(manifest["id"])) if options.known else set()
    results["thresholds"] = found(manifest, pairs, known)
    results["known_pairs"] = len(known)
    threshold = Study.load(params).data.duplicates.threshold
    groups, _ = linked(manifest, pairs[pairs["correlation"] > threshold])
    results["threshold"] = threshold
    results["leaks"] = {
        kind: leaks(manifest.assign(group=groups), kind) for kind in ("naive", "grouped")
    }
    near = pairs.loc[pairs["kind"] == "near", "correlation"]
    results["correlations"] = sorted(near.tolist())[:30]
    return results


def table(rows: list[dict[str, Any]]) -> list[str]:
    """Return rows as a Markdown table."""
    lines = ["| " + " | ".join(rows[0]) + " |", "|---" * len(rows[0]) + "|"]
    for row in rows:
        cells = (f"{v:.3g}" if isinstance(v, float) else str(v) for v in row.values())
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def render(results: dict[str, Any]) -> str:
    """Return the page of the measurements."""
    lines = [
        "# The data steps on BUSI",
        "",
        f"Written by `python benchmarks/data.py` on {results['machine']}; load when it began: "
        f"{results['load']}.",
        "",
        *table([{"step": name, **values} for name, values in results["costs"].items()]),
        "",
        "## Duplicates",
        "",
        "Pairs of images that share a group, by the threshold on the correlation of the aligned "
        f"images (`data.duplicates.threshold`, {results['threshold']} in params.yaml). Known are "
        f"{results['known_pairs']} pairs of a list that correlation of thumbnails gave.",
        "",
        *table(results["thresholds"]),
        "",
        "The lowest correlations of candidates above 0.5: "
        + ", ".join(f"{c:.3f}" for c in results["correlations"])
        + ".",
        "",
    ]
    lines += [
        "## What a split leaks",
        "",
        f"Mean of {SEEDS} seeds, 70/15/15. A test image leaks if a duplicate of it is trained on "
        "or validated with.",
        "",
        *table([{"split": kind, **values} for kind, values in results["leaks"].items()]),
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure, write the JSON, render the page."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--known", type=lambda text: Path(text).resolve())
    options = parser.parse_args()
    if "DMF_BUSI_ARCHIVE" in os.environ:
        os.environ["DMF_BUSI_ARCHIVE"] = str(Path(os.environ["DMF_BUSI_ARCHIVE"]).resolve())
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        results = measure(options)
        os.chdir(REPOSITORY)
    OUTPUT.mkdir(parents=True, exist_ok=True)
    (OUTPUT / "data.json").write_text(json.dumps(results, indent=2) + "\n")
    (OUTPUT / "data.md").write_text(render(results))
    print(render(results))


if __name__ == "__main__":
    main()
