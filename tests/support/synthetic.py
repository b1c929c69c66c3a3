"""A small, complete study on disk whose truth is known: what the report reads, without training.

Scores are planted: the macro Dice of a run is its configuration's mean, plus an effect its seed
shares with every configuration (the design is paired), plus noise of its own. All other metrics
follow from it by an assumed foreground Dice, so they obey the inequalities real ones obey.
"""

import hashlib
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dmf.configurations import paper_configurations, parse_configuration
from dmf.data.arrays import Arrays, write_arrays
from dmf.files import sha256_file, write_json
from dmf.layout import Cell, split
from dmf.outcomes import EVALUATIONS
from dmf.study import Study

METRICS = (
    "dice",
    "iou",
    "f1",
    "precision",
    "recall",
    "cb_dice",
    "foreground_dice",
    "foreground_iou",
)
BASE = ("cross_entropy", "iou", "dice")
IMAGES = 40
BATCHES = 7

Run = tuple[str, str, int]  # dataset, configuration, seed


def make_study(
    datasets: Mapping[str, str] | None = None,
    *,
    configurations: Collection[str] | None = None,
    seeds: int = 3,
    epochs: int = 20,
    image_size: int = 32,
    report: Mapping[str, Any] | None = None,
) -> Study:
    """Return a study of ``datasets`` (name to kind; default one phantom set)."""
    datasets = {"phantom": "phantom"} if datasets is None else datasets
    sources: dict[str, dict[str, Any]] = {}
    for name, kind in datasets.items():
        sources[name] = {"kind": kind}
        if kind == "folder":
            sources[name]["archive"] = "own.zip"
    return Study.from_mapping(
        {
            "study": {
                "name": "synthetic",
                "datasets": list(datasets),
                "configurations": list(configurations or paper_configurations()),
                "seeds": seeds,
            },
            "datasets": sources,
            "data": {"image_size": image_size},
            "model": {"filters": [4, 8]},
            "training": {"epochs": epochs},
            "report": {"dpi": 100, "pdf": False, "bootstrap": 200, **(report or {})},
        }
    )


def write_study(
    folder: Path,
    study: Study,
    *,
    dice: Mapping[str, float] | None = None,
    seed_spread: float = 0.010,
    noise: float = 0.004,
    missing: Collection[Run] = (),
    diverged: Collection[Run] = (),
) -> None:
    """Write raw manifests, arrays, splits and every run of ``study`` under ``folder``.

    ``dice`` maps configurations to the mean macro Dice (test, last epoch) planted in them; what it
    leaves out gets 0.80. Runs in ``missing`` get no folder; those in ``diverged`` end early.
    """
    for dataset in study.grid.datasets:
        sha256 = _write_data(folder, study, dataset)
        for seed in study.seeds:
            _write_split(folder, dataset, seed)
            effect = _generator(dataset, seed).normal(0, seed_spread)
            for configuration in study.grid.configurations:
                run = (dataset, configuration, seed)
                if run in missing:
                    continue
                score = (dice or {}).get(configuration, 0.80) + effect
                score += _generator(*run).normal(0, noise)
                _write_run(folder, study, run, float(np.clip(score, 0.3, 0.99)), sha256, diverged)


def metrics_of(dice: float, skew: float = 0.01) -> dict[str, float]:
    """Return the 8 metrics a macro Dice implies, if a tenth of the pixels is foreground."""
    foreground = 1 - 1.85 * (1 - dice)
    background = 2 * dice - foreground
    precision, recall = dice + skew, dice - skew + 0.004
    return {
        "dice": dice,
        "iou": (foreground / (2 - foreground) + background / (2 - background)) / 2,
        "f1": 2 * precision * recall / (precision + recall),
        "precision": precision,
        "recall": recall,
        "cb_dice": 0.9 * foreground + 0.1 * background,
        "foreground_dice": foreground,
        "foreground_iou": foreground / (2 - foreground),
    }


def _generator(*key: object) -> np.random.Generator:
    digest = hashlib.sha256(repr(key).encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:8], "big"))


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _write_data(folder: Path, study: Study, dataset: str) -> str:
    """Write dark blobs in grey noise as the arrays of ``dataset``; return their hash."""
    size, rng = study.data.image_size, _generator(dataset)
    row, column = np.mgrid[:size, :size] / size
    originals: list[NDArray[np.uint8]] = []
    masks: list[NDArray[np.uint8]] = []
    for _ in range(IMAGES):
        y, x = rng.uniform(0.35, 0.65, 2)
        a, b = rng.uniform(0.08, 0.28, 2)
        mask = ((row - y) / a) ** 2 + ((column - x) / b) ** 2 < 1
        speckle = rng.rayleigh(0.35, (size, size)) * np.where(mask, 0.4, 1.0)
        originals.append(np.clip(255 * speckle, 0, 255).astype(np.uint8))
        masks.append(mask.astype(np.uint8))
    original, truth = np.stack(originals), np.stack(masks)
    shifted = np.roll(original, 1, 1).astype(np.uint16)
    filtered = ((original + shifted) // 2).astype(np.uint8)
    ids = [f"{dataset}_{index:03d}" for index in range(IMAGES)]
    lesions = ["malignant" if index % 3 == 0 else "benign" for index in range(IMAGES)]
    synthetic = study.source(dataset).kind == "phantom"
    arrays = Arrays(dataset, ids, lesions, original, filtered, truth, 2, synthetic)
    write_arrays(arrays, study.filter_parameters().model_dump(), folder / "data/filtered")
    manifest = {
        "dataset": dataset,
        "kind": study.source(dataset).kind,
        "classes": 2,
        "images": IMAGES,
        "licence": "CC0-1.0",
        "citation": "made for a test",
        "address": None,
        "archive_sha256": _sha256(dataset),
        "problems": [],
        "synthetic": synthetic,
    }
    write_json(folder / "data/raw" / dataset / "manifest.json", manifest)
    return arrays.sha256


def _write_split(folder: Path, dataset: str, seed: int) -> None:
    order = _generator(dataset, "split", seed).permutation(IMAGES)
    subsets = np.full(IMAGES, "train", dtype=object)
    subsets[order[:6]] = "validation"
    subsets[order[6:12]] = "test"
    table = pd.DataFrame(
        {"id": [f"{dataset}_{index:03d}" for index in range(IMAGES)], "subset": subsets}
    )
    path = folder / split(dataset, seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    table.to_csv(path, index=False)


def _write_run(
    folder: Path, study: Study, run: Run, score: float, sha256: str, diverged: Collection[Run]
) -> None:
    dataset, configuration, seed = run
    place = folder / Cell(*run).folder
    place.mkdir(parents=True, exist_ok=True)
    synthetic = study.source(dataset).kind == "phantom"
    history = _history(study, run, score)
    epochs = study.training.epochs
    if run in diverged:
        epochs = epochs // 3 + 1
        history = history.iloc[:epochs]
    history.to_csv(place / "history.csv", index=False)
    history[["epoch"]].assign(seconds=1.5, images_per_second=20.0).to_csv(
        place / "timing.csv", index=False
    )
    outcome: dict[str, Any] = {
        "status": "diverged" if run in diverged else "complete",
        "epochs": epochs,
        "synthetic": synthetic,
        **dict.fromkeys(EVALUATIONS),
        "diverged": {"epoch": epochs, "batch": 3, "loss": "iou"} if run in diverged else None,
    }
    files = ["history.csv"]
    if run not in diverged:
        outcome["last"] = _scores(run, epochs, score)
        outcome["best"] = _scores(run, max(1, epochs - 2), min(0.995, score + 0.003))
        settled = _scores(run, epochs, min(0.995, score + 0.001))
        outcome["settled"] = {"epochs": 1, **{s: settled[s] for s in ("validation", "test")}}
        outcome["recalibrated"] = _scores(run, epochs, min(0.995, score + 0.002))
        for name in ("model.safetensors", "best.safetensors"):
            (place / name).write_bytes(b"")
            files.append(name)
    write_json(
        place / "run.json",
        {
            "key": _sha256(repr(run)),
            "dataset": dataset,
            "configuration": configuration,
            "seed": seed,
            "parameters": study.run_parameters(configuration).model_dump(mode="json"),
            "hashes": {
                "arrays": sha256,
                "split": sha256_file(folder / split(dataset, seed)),
                "code": _sha256("code"),
                "initial_weights": _sha256(f"weights {seed}"),
                "batch_order": _sha256(f"{dataset} order {seed}"),
            },
            "commit": "0123456789abcdef0123456789abcdef01234567",
            "dirty": False,
            "versions": {"python": "3.11.9", "torch": "2.13.0"},
            "device": {"type": "cpu", "name": "test processor"},
            "precision": "fp32",
            "synthetic": synthetic,
            "files": {name: sha256_file(place / name) for name in files},
            "outcome": outcome,
        },
    )
    write_json(place / "metrics.json", outcome)


def _scores(run: Run, epoch: int, score: float) -> dict[str, Any]:
    gap = _generator(*run, "validation").normal(0, 0.005)
    subsets = {
        "train": 1 - 0.25 * (1 - score),
        "validation": min(0.995, score + gap),
        "test": score,
    }
    found: dict[str, Any] = {"epoch": epoch}
    for subset, value in subsets.items():
        pooled = metrics_of(value)
        found[subset] = dict(pooled)
        for prefix, lower in (("image_", 0.02), ("batch_", 0.002)):
            found[subset] |= {prefix + name: x - lower for name, x in pooled.items()}
    return found


def _history(study: Study, run: Run, score: float) -> pd.DataFrame:
    configuration = parse_configuration(run[1])
    epochs, rng = study.training.epochs, _generator(*run, "history")
    epoch = np.arange(1, epochs + 1)
    table: dict[str, NDArray[Any]] = {"epoch": epoch}
    progress = 1 - np.exp(-epoch / (epochs / 5))
    losses = []
    for start, end in ((0.7, 0.15), (0.6, 0.25), (0.5, 0.18)):
        losses.append(start + (end - start) * progress + rng.normal(0, 0.008, epochs))
    weights = _weights(configuration.weighting, epochs, rng)
    total = np.zeros(epochs)
    for index, name in enumerate(BASE):
        table[f"loss_{name}"] = losses[index]
        table[f"weighted_{name}"] = weights[index] * losses[index]
        table[f"weight_{name}"] = weights[index]
        total += weights[index] * losses[index]
    if configuration.auxiliary != "none":
        steps = epoch * BATCHES // study.auxiliary.step_batches
        gamma = study.auxiliary.gamma0 * np.exp(-study.auxiliary.decay * steps)
        table["loss_auxiliary"] = losses[2] + 0.03
        table["weighted_auxiliary"] = gamma * table["loss_auxiliary"]
        table["gamma"] = gamma
        total = total + table["weighted_auxiliary"]
    table["total"] = total
    table["events"] = np.zeros(epochs, dtype=int)
    course = 0.45 + (score - 0.45) * progress
    for name in METRICS:
        table[f"validation_{name}"] = np.array([metrics_of(value)[name] for value in course])
    return pd.DataFrame(table)


def _weights(weighting: str, epochs: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Return weights of shape (3, epochs) in the manner of each method, uniform at first."""
    warm = max(1, epochs // 10)
    weights = np.full((3, epochs), 1 / 3)
    if weighting == "fixed":
        return weights
    later = epochs - warm
    if weighting == "bayesian":
        scores = np.outer([0.0, 0.1, 0.25], np.arange(later)) * 40 / epochs
    else:
        step = 0.02 if weighting == "variance" else 0.08
        scores = np.cumsum(rng.normal(0, step, (3, later)), axis=1)
    raised = np.exp(scores - scores.max(axis=0))
    weights[:, warm:] = raised / raised.sum(axis=0)
    return weights
