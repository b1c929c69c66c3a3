"""Masks from a model file."""

import json
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file

from dmf.errors import DmfError
from dmf.study import FilterParameters
from dmf.unet import UNet


def read_model(path: Path) -> tuple[UNet, FilterParameters]:
    """Return the network of a model file, ready to evaluate, and how its images were prepared.

    Raises DmfError if the file is missing, damaged or not written by `dmf train`.
    """
    try:
        with safe_open(path, "pt") as stream:
            description = json.loads((stream.metadata() or {})["dmf"])
        network = UNet(
            description["filters"],
            classes=description["classes"],
            momentum=description["momentum"],
            skip_connections=description.get("skip_connections", True),
        )
        network.load_state_dict(load_file(path))
        preprocessing = FilterParameters.model_validate_json(
            json.dumps(description["preprocessing"])
        )
    except FileNotFoundError as error:
        raise DmfError(
            f"{path} does not exist. Train the run, or fetch models with: dvc pull"
        ) from error
    except (SafetensorError, KeyError, ValueError, RuntimeError) as error:
        raise DmfError(
            f"{path} is not a sound model of this project ({error}). Fetch it again with dvc pull, "
            "or delete its folder and train again."
        ) from error
    # The memory format of the training, so that predictions are those that were scored.
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return network.eval(), preprocessing


def predict(
    model_file: Path, images: npt.NDArray[np.uint8], batch_size: int = 32
) -> npt.NDArray[np.uint8]:
    """Return class indices, uint8 (N, H, W), for grey images uint8 (N, H, W), on the CPU in fp32.

    Images must be filtered and have the size the model was trained on.
    """
    network, _ = read_model(model_file)
    masks = []
    with torch.inference_mode():
        for start in range(0, len(images), batch_size):
            batch = torch.from_numpy(images[start : start + batch_size])
            logits = network(batch[:, None].float().div(255))
            masks.append(logits.argmax(1).to(torch.uint8))
    return torch.cat(masks).numpy()
