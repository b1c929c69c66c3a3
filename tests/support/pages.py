"""A report on planted results, written as the workflow writes it; predictions are stand-ins."""

import sys
from collections.abc import Iterator
from contextlib import chdir, contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from dmf.analysis import results
from dmf.analysis.figures import catalogue, style
from dmf.analysis.page import page
from dmf.files import read_json, write_json
from dmf.study import ReportParameters, Study

import synthetic

CONFIGURATIONS = ["cb_dice-variance", "none-mad", "none-variance", "fixed"]
SCRIPT = "<script>document.title = 'taken over'</script>"


@contextmanager
def drawing_only(*names: str) -> Iterator[None]:
    """Write the figures of these names as PNG; for the others, which take seconds, a stand-in."""
    draw = style.save

    def save(figure: Figure, stem: Path, *options: Any) -> None:
        if stem.name in names:
            draw(figure, stem, *options)
            return
        stem.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (600, 400)).save(stem.with_suffix(".png"))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(style, "save", save)
        yield


def write_report(study: Study, folder: Path) -> ReportParameters:
    """Write figures and page of the study in ``folder``; predictions are stand-ins."""
    stand_in = ModuleType("dmf.training.inference")
    stand_in.predict = lambda file, images: (images < 60).astype(np.uint8)  # type: ignore[attr-defined]
    parameters = study.report_parameters()
    with chdir(folder), pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "dmf.training.inference", stand_in)
        table = results.collect(parameters.grid, partial=True)
        results.write(table, parameters.grid, Path("reports"))
        catalogue.write_all(table, parameters, Path("reports/figures"))
        page.write(table, parameters, Path("reports"))
    return parameters


def write_mixed(folder: Path) -> ReportParameters:
    """Report a reduced study of BUSI and phantom images with a missing and a diverged run.

    The licence of a set is a script, which no page may run.
    """
    study = synthetic.make_study(
        {"busi": "busi", "phantom": "phantom"},
        configurations=CONFIGURATIONS,
        epochs=6,
        report={"dpi": 60, "samples": 2},
    )
    synthetic.write_study(
        folder,
        study,
        dice={"cb_dice-variance": 0.86, "none-mad": 0.84},
        missing=[("busi", "none-mad", 2)],
        diverged=[("phantom", "fixed", 1)],
    )
    manifest = folder / "data/raw/busi/manifest.json"
    write_json(manifest, read_json(manifest) | {"licence": SCRIPT})
    return write_report(study, folder)
