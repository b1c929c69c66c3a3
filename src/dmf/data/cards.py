"""A card per set: what it holds, where it is from, what is wrong with it, and how it looks."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dmf import layout
from dmf.data import arrays, raw, splits
from dmf.files import atomic_path, write_text
from dmf.markup import plain
from dmf.settings import Split

SEEDS = 10  # splits over which leaks are averaged
EXAMPLES = 6
GROUPS = 4  # groups of duplicates that are shown
OUTLINE = "#d55e00"


def write_card(dataset: str, folder: Path) -> None:
    """Write `<dataset>.md` and its pictures into `folder`, from `data/raw` and `data/filtered`.

    Raises DmfError if the set was not downloaded and filtered, or is damaged.
    """
    manifest = raw.read_manifest(dataset)
    description = raw.read_description(dataset)
    contents = arrays.read_arrays(layout.arrays(dataset))
    pairs = pd.read_csv(layout.duplicates(dataset), dtype={"first": str, "second": str})
    pictures = {
        "examples": _examples(contents),
        "histogram": _histogram(contents),
        "duplicates": _duplicates(manifest, contents),
    }
    lines = [f"# {dataset}", ""]
    if description["synthetic"]:
        lines += ["**Phantom data: simulated, not measured.**", ""]
    lines += [
        *_table(_facts(manifest, description, contents)),
        "",
        *_table(_classes(manifest)),
        "",
        "Foreground is the mean share of an image's pixels, at its own size.",
        "",
    ]
    for name, figure in pictures.items():
        if figure is not None:
            _save(figure, folder / f"{dataset}-{name}.png", contents.synthetic)
            lines += [f"![{name}]({dataset}-{name}.png)", ""]
    lines += [*_duplicate_lines(manifest, description, pairs), *_problem_lines(description)]
    write_text(folder / f"{dataset}.md", "\n".join(lines).rstrip() + "\n")


def _facts(
    manifest: pd.DataFrame, description: dict[str, Any], contents: arrays.Arrays
) -> list[tuple[str, ...]]:
    height, width = manifest["height"], manifest["width"]
    _, *size = contents.masks.shape
    ignored = ", ".join(f"{n} {name}" for name, n in description.get("ignored", {}).items())
    return [
        ("", ""),
        ("Images", str(len(manifest))),
        ("Left aside", ignored or "none"),
        ("Height", f"{height.min()} to {height.max()} pixels, median {height.median():g}"),
        ("Width", f"{width.min()} to {width.max()} pixels, median {width.median():g}"),
        ("Images with several masks, joined", str((manifest["masks"] > 1).sum())),
        ("Patients", _patients(manifest)),
        (
            "Foreground",
            f"{(contents.masks > 0).mean():.1%} of all pixels at {size[0]}x{size[1]}",
        ),
        ("Source", description["address"]),
        ("SHA-256 of the archive", description.get("archive_sha256", "none: simulated")),
        ("SHA-256 of the contents", description["contents_sha256"]),
        ("Licence", description["licence"]),
        ("Cite", description["citation"] or "nothing stated"),
    ]


def _patients(manifest: pd.DataFrame) -> str:
    known = manifest.loc[manifest["patient"] != "", "patient"]
    if known.empty:
        return "not told"
    largest = known.value_counts().max()
    missing = len(manifest) - len(known)
    unknown = f"; of {missing} images not told" if missing else ""
    return f"{known.nunique()}, with up to {largest} images each{unknown}"


def _classes(manifest: pd.DataFrame) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = [("Class", "Images", "Foreground", "Smallest", "Largest")]
    for lesion, images in manifest.groupby("class"):
        share = images["foreground"]
        values = (f"{value:.1%}" for value in (share.mean(), share.min(), share.max()))
        rows.append((str(lesion), str(len(images)), *values))
    return rows


def _duplicate_lines(
    manifest: pd.DataFrame, description: dict[str, Any], pairs: pd.DataFrame
) -> list[str]:
    report = description["duplicates"]
    lines = ["## Duplicates", ""]
    if pairs.empty:
        lines += [f"None ({report['method']}, {report['threshold']}).", ""]
    else:
        counts = pairs["kind"].value_counts()
        lines += [
            f"{counts.get('exact', 0)} exact and {counts.get('near', 0)} near pairs "
            f"({report['method']}, {report['threshold']}): {report['images']} images in "
            f"{report['groups']} groups, {report['groups_of_mixed_classes']} of them with images "
            "of different classes.",
            "",
        ]
    if len(set(splits.blocks(manifest))) < len(manifest):
        lines += [
            "Siblings are images of the same patient or of the same group of duplicates.",
            "",
            *_table(_leaks(manifest)),
            "",
        ]
    mixed = manifest.groupby("group").filter(lambda images: images["class"].nunique() > 1)
    for _, images in mixed.groupby("group"):
        lines.append(f"- of different classes: {', '.join(map(plain, images['id']))}")
    return [*lines, ""] if len(mixed) else lines


def _leaks(manifest: pd.DataFrame) -> list[tuple[str, ...]]:
    """Return, for both kinds of split, how much of the test subset is known from elsewhere."""
    rows: list[tuple[str, ...]] = [
        (
            f"Split (70/15/15, mean of {SEEDS} seeds)",
            "Test images with a sibling elsewhere",
            "of these, in training",
            "Pairs separated",
        )
    ]
    for kind in ("naive", "grouped"):
        split = Split.model_validate({"kind": kind})
        try:
            subsets = [splits.assign(manifest, seed, split) for seed in range(SEEDS)]
        except ValueError:
            rows.append((kind, *["impossible"] * 3))
            continue
        images = np.mean([splits.leaked_images(manifest, s) for s in subsets])
        trained = np.mean([splits.leaked_from_training(manifest, s) for s in subsets])
        separated = np.mean([splits.separated_pairs(manifest, s) for s in subsets])
        of = np.mean([(s == "test").sum() for s in subsets])
        rows.append((kind, f"{images:.1f} of {of:.0f}", f"{trained:.1f}", f"{separated:.1f}"))
    return rows


def _problem_lines(description: dict[str, Any]) -> list[str]:
    problems = description.get("problems", [])
    if not problems:
        return []
    lines = [f"- {plain(problem['file'])}: {plain(problem['detail'])}" for problem in problems]
    return ["## Images that could not be used", "", *lines, ""]


def _examples(contents: arrays.Arrays) -> Figure:
    """Draw images spread over the set: original with the outline of its mask, and filtered."""
    positions = np.unique(np.linspace(0, len(contents.ids) - 1, EXAMPLES).round().astype(int))
    figure = Figure(figsize=(1.8 * len(positions), 4), layout="constrained")
    axes = figure.subplots(2, len(positions), squeeze=False)
    for (upper, lower), position in zip(axes.T, positions, strict=True):
        _show(upper, contents.originals[position], contents.ids[position])
        upper.contour(contents.masks[position] > 0, levels=[0.5], colors=OUTLINE, linewidths=1)
        _show(lower, contents.filtered[position], "filtered")
    return figure


def _histogram(contents: arrays.Arrays) -> Figure:
    """Draw the grey values of originals and filtered images, and of lesions and background."""
    figure = Figure(figsize=(8, 3), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    lesion = contents.masks > 0
    for axes, curves in (
        (left, {"original": contents.originals, "filtered": contents.filtered}),
        (
            right,
            {
                "lesion, filtered": contents.filtered[lesion],
                "background, filtered": contents.filtered[~lesion],
            },
        ),
    ):
        for label, values in curves.items():
            share = np.bincount(values.ravel(), minlength=256) / values.size
            axes.plot(share, label=label, linewidth=1)
        axes.set_xlabel("grey value")
        axes.legend(frameon=False)
    left.set_ylabel("share of pixels")
    return figure


def _duplicates(manifest: pd.DataFrame, contents: arrays.Arrays) -> Figure | None:
    """Draw some groups of duplicates, those of different classes first."""
    members = manifest.groupby("group").agg(images=("id", "size"), classes=("class", "nunique"))
    several = members[members["images"] > 1].sort_values("classes", ascending=False, kind="stable")
    shown = [manifest.index[manifest["group"] == g][:4] for g in several.index[:GROUPS]]
    if not shown:
        return None
    columns = max(map(len, shown))
    figure = Figure(figsize=(1.9 * columns, 2.1 * len(shown)), layout="constrained")
    for row, positions in zip(
        figure.subplots(len(shown), columns, squeeze=False), shown, strict=True
    ):
        for axes in row:
            axes.set_axis_off()
        for axes, position in zip(row, positions, strict=False):
            _show(axes, contents.originals[position], contents.ids[position])
    return figure


def _show(axes: Axes, image: npt.NDArray[np.uint8], title: str) -> None:
    axes.imshow(image, cmap="gray", vmin=0, vmax=255)
    axes.set_title(title, fontsize=8)
    axes.set_axis_off()


def _save(figure: Figure, path: Path, synthetic: bool) -> None:
    if synthetic:
        figure.suptitle("phantom data", fontsize=8, color=OUTLINE)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=120, metadata={"Software": None})


def _table(rows: Iterable[tuple[str, ...]]) -> list[str]:
    head, *body = rows
    rule = "|" + "---|" * len(head)
    shown = [f"| {' | '.join(map(plain, row))} |" for row in (head, *body)]
    return [shown[0], rule, *shown[1:]]
