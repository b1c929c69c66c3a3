"""The places of a study: one cell for each run, in the order of datasets, configurations, seeds."""

import subprocess
import sys
from pathlib import Path

from dmf.layout import Cell, cells
from dmf.study import Study

from conftest import REPOSITORY


def test_the_papers_study_has_390_cells_in_order() -> None:
    grid = Study.load(REPOSITORY / "params.yaml").grid
    found = cells(grid)
    assert len(found) == len(set(found)) == 390
    assert found[0] == Cell("busi", "tversky-variance", 0)
    assert found[9:11] == [Cell("busi", "tversky-variance", 9), Cell("busi", "tversky-mad", 0)]
    assert found[-1] == Cell("bus", "fixed", 9)


def test_a_cell_knows_its_places() -> None:
    cell = Cell("busi", "fixed", 3)
    assert str(cell) == "busi/fixed/seed-03"
    assert cell.folder == Path("models/busi/fixed/seed-03")
    assert cell.live_folder == Path(".checkpoints/busi/fixed/seed-03")
    assert cell.split == Path("data/splits/busi/seed-03.csv")
    assert cell.arrays == Path("data/filtered/busi.json")


def test_naming_places_needs_neither_pandas_nor_torch() -> None:
    code = "import sys, dmf.layout; print({'torch', 'pandas', 'numpy'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
