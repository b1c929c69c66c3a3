"""How trained runs score on a set they were not trained on."""

import csv
import io
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from dmf import layout
from dmf.data import raw
from dmf.data.filtering import prepare
from dmf.errors import DmfError
from dmf.files import sha256_file, write_text
from dmf.metrics import confusion_counts, metrics_from_counts
from dmf.outcomes import FOREGROUND_METRICS, METRICS
from dmf.records import Outcome
from dmf.study import FilterParameters, Grid, RunParameters
from dmf.training.inference import Model, read_model
from dmf.training.run_record import complete_record, read_record

Images = npt.NDArray[np.uint8]

BATCH_SIZE = 32  # of a model file without the record of its run
EVALUATED = {"last": layout.LAST_MODEL, "best": layout.BEST_MODEL}
COUNTS = ("true_positive", "false_positive", "false_negative")
SHOWN = ("dice", "iou", "cb_dice", "foreground_dice", "image_foreground_dice")


@dataclass(frozen=True)
class Prepared:
    """A set as a model's training images were: names, classes of lesions, images and masks.

    `images` are filtered grey images and `masks` class indices below `classes`, uint8 (N, H, W).
    """

    ids: list[str]
    lesions: list[str]
    images: Images
    masks: Images
    classes: int


@dataclass(frozen=True)
class Evaluation:
    """The scores of one model file on one set.

    `counts` are TP, FP and FN of every image and class, int64 (N, C, 3); `scores` is what
    `dmf.metrics.metrics_from_counts` makes of them.
    """

    run: str
    weights: str
    counts: torch.Tensor
    scores: dict[str, float]


def evaluate(
    models: Sequence[Path], dataset: str, *, every_image: bool = True
) -> Iterator[Evaluation]:
    """Score every model on all images of `data/raw/<dataset>`, prepared as the model's were.

    A model is a run folder, whose last and best weights are scored, or a model file. With
    ``every_image``, each run's scores are written to `reports/evaluations/<dataset>/<run>/`:
    `scores.csv`, and `images.csv` with every image by itself. Networks are evaluated in fp32 on the
    CPU, metrics are those of the training, `batch_*` over batches of the training's size in the
    order of the manifest.

    Raises DmfError if the set was not downloaded, a run is unfinished or damaged, has other classes
    than the set, was trained on this set, or would write where another of them does.
    """
    prepared: dict[str, Prepared] = {}
    named = [_run(path, dataset) for path in dict.fromkeys(models)]
    for run, times in Counter(run for run, *_ in named).items():
        if every_image and times > 1:
            raise DmfError(
                f"{times} of the models are called {run}, and would write to one folder. Name a "
                "run by its folder, which scores its last and best weights, or rename a file."
            )
    for run, batch_size, files in named:
        done = []
        for weights, file in files.items():
            model = read_model(file)
            preprocessing = model.description.preprocessing
            key = preprocessing.model_dump_json()
            if key not in prepared:
                prepared = {key: _prepare(dataset, preprocessing)}  # one at a time in memory
            done.append(_score(run, weights, model, prepared[key], batch_size))
            yield done[-1]
        if every_image:
            _write(layout.EVALUATIONS / dataset / run, done, prepared[key])


def write_table(dataset: str, evaluations: Sequence[Evaluation]) -> None:
    """Write the scores of many runs on ``dataset`` to one table, a row for each of their models."""
    names = list(evaluations[0].scores)
    rows: list[tuple[object, ...]] = [("run", "weights", *names)]
    for found in evaluations:
        rows.append((found.run, found.weights, *(found.scores[name] for name in names)))
    _write_csv(layout.evaluations(dataset), rows)


def trained_elsewhere(grid: Grid, dataset: str) -> tuple[list[Path], list[Path]]:
    """Return the folders of the study's finished runs that were trained on another set.

    First those with models to score, then those that diverged. Raises DmfError if there is no
    model to score.
    """
    status = {
        cell.folder: Outcome.read(cell.metrics)["status"]
        for cell in layout.cells(grid)
        if cell.dataset != dataset and cell.metrics.exists()
    }
    complete = [folder for folder, found in status.items() if found == "complete"]
    if not complete:
        raise DmfError(
            f"{Path.cwd()} holds no finished run that was trained on another set than {dataset}."
        )
    return complete, [folder for folder in status if folder not in complete]


def describe(evaluations: Sequence[Evaluation]) -> Iterator[str]:
    """Yield a table of scores in percent, a line at a time."""
    rows = [["run", "weights", *SHOWN]]
    for found in evaluations:
        values = [f"{100 * found.scores[name]:.2f}" for name in SHOWN]
        rows.append([found.run, found.weights, *values])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for first, *others in rows:
        cells = (f"{cell:>{width}}" for cell, width in zip(others, widths[1:], strict=True))
        yield "  ".join((f"{first:<{widths[0]}}", *cells))


def _run(path: Path, dataset: str) -> tuple[str, int, dict[str, Path]]:
    """Return a run's name, its batch size, and its model files by their weights' names."""
    folder = path if path.is_dir() else path.parent
    if path.is_dir():
        record = complete_record(folder)
        if record is None:
            raise DmfError(
                f"{path} is no complete run: it is missing, unfinished or damaged. Train it, or "
                "fetch it with: dvc pull"
            )
    else:
        record = read_record(folder)  # of its other files none is needed
        if record is None or not path.is_file():
            return path.stem, BATCH_SIZE, {"file": path}
        if record["files"].get(path.name) not in (None, sha256_file(path)):
            raise DmfError(
                f"{path} is not the file that {folder / layout.RECORD} names: it is damaged, or of "
                "another run. Fetch it again, or evaluate it in a folder of its own."
            )
    if record["outcome"]["status"] != "complete":
        raise DmfError(f"{path}: this training diverged; there is no model to score.")
    try:
        cell = layout.Cell(record["dataset"], record["configuration"], int(record["seed"]))
        batch_size = RunParameters.model_validate(record["parameters"]).training.batch_size
    except (KeyError, TypeError, ValueError) as error:
        raise DmfError(f"{folder / layout.RECORD} is damaged ({error}). Train again.") from None
    if not re.fullmatch(r"\w+/[\w-]+/seed-\d\d", str(cell)):  # it becomes a folder's name
        raise DmfError(f"{folder / layout.RECORD} is damaged ({cell} is no run). Train again.")
    if cell.dataset == dataset:
        raise DmfError(
            f"{path} was trained on images of {dataset}: scores on all of them would say nothing. "
            f"{folder / layout.METRICS_FILE} has those on its test images. Name another --dataset."
        )
    files = {name: folder / file for name, file in EVALUATED.items()}
    if not path.is_dir():
        files = {name: file for name, file in files.items() if file.name == path.name}
    return str(cell), batch_size, files or {"file": path}


def _prepare(dataset: str, preprocessing: FilterParameters) -> Prepared:
    manifest = raw.read_manifest(dataset)
    classes = int(raw.read_description(dataset)["classes"])
    size = preprocessing.image_size
    images, masks = np.empty((2, len(manifest), size, size), dtype=np.uint8)
    for index, pair in enumerate(raw.read_images(dataset, manifest, classes)):
        _, images[index], masks[index] = prepare(*pair, preprocessing)
    return Prepared(manifest["id"].tolist(), manifest["class"].tolist(), images, masks, classes)


def _score(run: str, weights: str, model: Model, of: Prepared, batch_size: int) -> Evaluation:
    if model.description.classes != of.classes:
        raise DmfError(
            f"{model.path} tells {model.description.classes} classes, the set has {of.classes}. "
            "Evaluate it on a set with the classes it was trained on."
        )
    counts = [
        confusion_counts(model.logits(images).argmax(1), torch.from_numpy(masks), of.classes)
        for images, masks in (
            (of.images[start : start + batch_size], of.masks[start : start + batch_size])
            for start in range(0, len(of.ids), batch_size)
        )
    ]
    together = torch.cat(counts)
    return Evaluation(run, weights, together, metrics_from_counts(together, batch_size))


def _write(folder: Path, evaluations: Sequence[Evaluation], of: Prepared) -> None:
    """Write `scores.csv` and `images.csv`."""
    names = (*METRICS, *FOREGROUND_METRICS)
    scores: list[tuple[object, ...]] = [("weights", "metric", "value")]
    counted = [f"{name}_{index}" for index in range(of.classes) for name in COUNTS]
    images: list[tuple[object, ...]] = [("weights", "id", "class", *names, *counted)]
    for found in evaluations:
        scores += [(found.weights, name, value) for name, value in found.scores.items()]
        for identifier, lesion, counts in zip(of.ids, of.lesions, found.counts, strict=True):
            values = metrics_from_counts(counts[None])
            row = (*(values[name] for name in names), *counts.flatten().tolist())
            images.append((found.weights, identifier, lesion, *row))
    _write_csv(folder / "scores.csv", scores)
    _write_csv(folder / "images.csv", images)


def _write_csv(path: Path, rows: Sequence[tuple[object, ...]]) -> None:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    write_text(path, text.getvalue())
