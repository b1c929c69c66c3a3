"""Model files are not believed: one message, and no memory, for whatever is wrong with them."""

import json
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from dmf.errors import DmfError
from dmf.training.inference import predict, read_model
from dmf.unet import UNet

from model_files import DESCRIPTION, weights, write_model


def test_a_model_is_the_network_that_was_written(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (5, 32, 32), dtype=np.uint8)
    network = UNet((4, 8), generator=torch.Generator().manual_seed(0)).eval()
    with torch.inference_mode():
        expected = network(torch.from_numpy(images)[:, None] / 255).argmax(1).numpy()
    file = write_model(tmp_path / "m.safetensors")
    assert 0 < expected.mean() < 1
    assert np.mean(predict(file, images, batch_size=2) == expected) > 0.999
    assert read_model(file).description.preprocessing.image_size == 32


PREPROCESSING = DESCRIPTION["preprocessing"]
WRONG: list[dict[str, Any]] = [
    {"filters": [12000, 12000]},
    {"filters": [4, 8, 16]},
    {"filters": None},
    {"filters": "ab"},
    {"filters": []},
    {"classes": "2"},
    {"classes": 3},
    {"momentum": "x"},
    {"skip_connections": False},
    {"skip_connections": 1},
    {"unknown": 1},
    {"preprocessing": None},
    *({"preprocessing": {**PREPROCESSING, "image_size": n}} for n in (0, -4, 17, 8000, 1e5)),
    *(
        {"preprocessing": {**PREPROCESSING, "filter": {**PREPROCESSING["filter"], "diameter": d}}}
        for d in (0, 20001, 10**9)
    ),
]


@pytest.mark.parametrize("wrong", WRONG, ids=json.dumps)
def test_a_description_that_does_not_fit_is_refused(wrong: dict[str, Any], tmp_path: Path) -> None:
    file = write_model(tmp_path / "m.safetensors", weights(), **wrong)
    with pytest.raises(DmfError, match=r"m.safetensors is not a sound model .*train again"):
        read_model(file)


def test_a_large_network_that_is_not_in_the_file_takes_no_memory(tmp_path: Path) -> None:
    """1024 filters a level would be 140 MB."""
    file = write_model(tmp_path / "m.safetensors", weights(), filters=[1024, 1024])
    before = torch.get_rng_state()
    tracemalloc.start()
    with pytest.raises(DmfError, match=r"down.0.0.weight is F32 \(4, 1, 3, 3\), not F32 \(1024"):
        read_model(file)
    assert tracemalloc.get_traced_memory()[1] < 10e6
    tracemalloc.stop()
    assert torch.equal(torch.get_rng_state(), before), "no initial weights were drawn"


@pytest.mark.parametrize("text", ["[]", "null", "{", "[" * 100_000, '{"filters": NaN}', "\ud800"])
def test_metadata_of_another_kind_is_refused(text: str, tmp_path: Path) -> None:
    file = tmp_path / "m.safetensors"
    save_file(weights(), file, {"dmf": text.encode("utf-8", "replace").decode()})
    with pytest.raises(DmfError, match="is not a sound model"):
        read_model(file)


def test_files_of_others_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "m.safetensors"
    save_file(weights(), file)
    with pytest.raises(DmfError, match="has no description of a network"):
        read_model(file)
    with pytest.raises(DmfError, match="not a sound model"):
        read_model(tmp_path)
    file.write_bytes(b"\x00" * 100)
    with pytest.raises(DmfError, match="not a sound model"):
        read_model(file)


def test_tensors_of_another_kind_are_refused(tmp_path: Path) -> None:
    for name, values in (("head.bias", torch.zeros(2).double()), ("more", torch.zeros(1))):
        file = write_model(tmp_path / "m.safetensors", weights() | {name: values})
        with pytest.raises(DmfError, match="is not a sound model"):
            read_model(file)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["head.weight", "down.1.1.running_var"])
def test_weights_that_are_not_finite_are_refused(value: float, name: str, tmp_path: Path) -> None:
    tensors = weights()
    tensors[name].flatten()[0] = value
    file = write_model(tmp_path / "m.safetensors", tensors)
    with pytest.raises(DmfError, match=rf"{name} holds values that are not finite"):
        read_model(file)


@pytest.mark.parametrize(
    ("name", "value"), [("down.0.0.weight", 3e38), ("down.0.1.running_var", -1)]
)
def test_outputs_that_are_not_finite_are_no_mask(name: str, value: float, tmp_path: Path) -> None:
    tensors = weights()
    tensors[name] = torch.full_like(tensors[name], value)
    file = write_model(tmp_path / "m.safetensors", tensors)
    with pytest.raises(DmfError, match=r"m.safetensors: its output is not finite"):
        predict(file, np.full((1, 32, 32), 255, np.uint8))
