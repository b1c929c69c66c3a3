"""Where everything of a study lies: each path is named here, once, and nowhere else in the package.

All paths are relative to the study's working directory, those of downloads to the project's folder,
which all its studies share. (The workflow's rules name the patterns of
the files that they make a second time: a rule is read by its paths.)
"""

from dataclasses import dataclass
from pathlib import Path

from dmf.study import Grid

DOWNLOADS = Path("data/downloads")
CHECKSUMS = Path("data/checksums.json")
RAW = Path("data/raw")
FILTERED = Path("data/filtered")
SPLITS = Path("data/splits")

MODELS = Path("models")
LIVE = Path(".checkpoints")  # of runs that are still training
# The files of a run's folder.
RECORD = "run.json"
METRICS_FILE = "metrics.json"
HISTORY = "history.csv"
TIMING = "timing.csv"
COUNTS = "test_counts.csv"
LAST_MODEL = "model.safetensors"
BEST_MODEL = "best.safetensors"

REPORTS = Path("reports")
RESULTS = REPORTS / "results.csv"
MEANS = REPORTS / "metrics.json"
CURVES = REPORTS / "curves.csv"
CARDS = REPORTS / "data"
EVALUATIONS = REPORTS / "evaluations"
FIGURES = REPORTS / "figures"
TABLES = REPORTS / "tables"
PAGE = REPORTS / "index.html"
REPORT = REPORTS / "report.md"

MLFLOW = Path("mlflow")
DATABASE = MLFLOW / "mlflow.db"
ARTIFACTS = MLFLOW / "artifacts"
TRACKED = MLFLOW / "tracked.json"


@dataclass(frozen=True, order=True)
class Cell:
    """One place of the study's grid, and where its run is: a data set, a configuration, a seed."""

    dataset: str
    configuration: str
    seed: int

    def __str__(self) -> str:
        return f"{self.dataset}/{self.configuration}/seed-{self.seed:02d}"

    @property
    def folder(self) -> Path:
        """The folder of the run: its record, models and tables."""
        return MODELS / str(self)

    @property
    def live_folder(self) -> Path:
        """The folder of the run while it trains: checkpoints, and the history so far."""
        return LIVE / str(self)

    @property
    def record(self) -> Path:
        return self.folder / RECORD

    @property
    def metrics(self) -> Path:
        """What the workflow declares of a run; written last."""
        return self.folder / METRICS_FILE

    @property
    def history(self) -> Path:
        return self.folder / HISTORY

    @property
    def timing(self) -> Path:
        return self.folder / TIMING

    @property
    def split(self) -> Path:
        """The split that the run is trained on."""
        return split(self.dataset, self.seed)

    @property
    def arrays(self) -> Path:
        """The description of the arrays that the run is trained on."""
        return arrays(self.dataset)


def cells(grid: Grid) -> list[Cell]:
    """Return every cell of a study: by data set, then by configuration, then by seed."""
    return [
        Cell(dataset, configuration, seed)
        for dataset in grid.datasets
        for configuration in grid.configurations
        for seed in range(grid.seeds)
    ]


def evaluations(dataset: str) -> Path:
    """Return the scores on a set of the runs that were trained on others."""
    return EVALUATIONS / f"{dataset}.csv"


def manifest(dataset: str) -> Path:
    """Return the list of a downloaded set's images."""
    return RAW / dataset / "manifest.csv"


def description(dataset: str) -> Path:
    """Return what is known of a downloaded set as a whole: source, licence, hashes."""
    return RAW / dataset / "manifest.json"


def duplicates(dataset: str) -> Path:
    """Return the pairs of duplicates of a downloaded set."""
    return RAW / dataset / "duplicates.csv"


def arrays(dataset: str) -> Path:
    """Return the JSON file that describes the filtered arrays of a set, which lie beside it."""
    return FILTERED / f"{dataset}.json"


def split(dataset: str, seed: int) -> Path:
    """Return the split of one seed."""
    return SPLITS / dataset / f"seed-{seed:02d}.csv"
