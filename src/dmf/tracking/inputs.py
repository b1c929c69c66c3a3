"""The data set of a run in MLflow's terms: a dataset input with name, digest and source."""

import json
from typing import TYPE_CHECKING, Any

from dmf.files import read_json
from dmf.layout import arrays, description
from dmf.tracking.runs import Finished

if TYPE_CHECKING:
    from mlflow.entities import DatasetInput

DIGEST = 16  # characters of the SHA-256 of the arrays; MLflow takes up to 36


def dataset_input(run: Finished) -> "DatasetInput":
    """Return what ``run`` was trained on: the arrays by their hash, and where the images are from.

    The hash is the run's own. Images, licence and address are those of the set that is here now,
    as far as it is.
    """
    from mlflow.entities import Dataset, DatasetInput, InputTag

    name = run.cell.dataset
    described, source = (_if_here(path) for path in (arrays(name), description(name)))
    address = source.get("address")
    kind, place = ("http", {"url": address}) if address else ("local", {"uri": f"data/raw/{name}"})
    profile = {
        key: value
        for key, value in (
            ("images", described.get("images")),
            ("licence", source.get("licence")),
            ("kind", source.get("kind")),
        )
        if value is not None
    }
    digest = str(run.record["hashes"]["arrays"])[:DIGEST]
    found = Dataset(name, digest, kind, json.dumps(place), None, json.dumps(profile))
    return DatasetInput(found, [InputTag("mlflow.data.context", "training and test")])


def _if_here(path: Any) -> dict[str, Any]:
    return read_json(path) if path.exists() else {}
