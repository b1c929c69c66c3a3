"""Masks from a model file."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Self

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field, ValidationError, model_validator
from safetensors import SafetensorError, safe_open
from torch import Tensor

from dmf.errors import DmfError
from dmf.settings import Fraction, Settings
from dmf.study import FilterParameters
from dmf.unet import UNet

DTYPES = {torch.float32: "F32", torch.int64: "I64"}  # as safetensors names them


class ModelDescription(Settings):
    """What a model file says of its network. The bounds keep a wrong file from costing memory."""

    filters: Annotated[
        list[Annotated[int, Field(ge=1, le=1024)]], Field(min_length=1, max_length=6)
    ]
    classes: Annotated[int, Field(ge=2, le=256)]
    momentum: Fraction
    skip_connections: bool = True
    preprocessing: FilterParameters
    key: str = ""

    @model_validator(mode="after")
    def _images_can_be_halved(self) -> Self:
        if self.preprocessing.image_size % 2 ** len(self.filters):
            raise ValueError(
                f"image_size {self.preprocessing.image_size} cannot be halved "
                f"{len(self.filters)} times"
            )
        return self

    def network(self) -> UNet:
        """Return the network, with random weights."""
        return UNet(
            self.filters,
            classes=self.classes,
            momentum=self.momentum,
            skip_connections=self.skip_connections,
        )


@dataclass(frozen=True)
class Model:
    """A trained network, ready to evaluate on the CPU in fp32, and what its file says of it."""

    path: Path
    network: UNet
    description: ModelDescription

    def logits(self, images: npt.NDArray[np.uint8]) -> Tensor:
        """Return the logits (N, C, H, W) of grey images uint8 (N, H, W).

        Images must be filtered and have the size the model was trained on. Raises DmfError if a
        logit is not finite: the class of such a pixel would mean nothing.
        """
        with torch.inference_mode():
            logits: Tensor = self.network(torch.from_numpy(images)[:, None].float().div(255))
        if not logits.isfinite().all():
            raise DmfError(
                f"{self.path}: its output is not finite, so that no mask can be told. Its weights "
                "are no result of a sound training; train the run again."
            )
        return logits


def read_model(path: Path) -> Model:
    """Return the model in a file.

    Nothing is believed: the description is validated, and names, shapes and types of the tensors
    are compared with the network that it describes before any memory is taken for either.

    Raises DmfError if the file is missing, damaged or not written by `dmf train`, or if its weights
    are not finite.
    """
    try:
        with safe_open(path, "pt") as stream:
            text = (stream.metadata() or {}).get("dmf")
            if text is None:
                raise ValueError("it has no description of a network")
            description = ModelDescription.model_validate_json(text)
            with torch.device("meta"):
                network = description.network()
            _compare(network, stream)
            weights = {name: stream.get_tensor(name) for name in network.state_dict()}
    except FileNotFoundError as error:
        raise DmfError(
            f"{path} does not exist. Train the run, or fetch models with: dvc pull"
        ) from error
    except (SafetensorError, ValueError, OSError, RecursionError) as error:
        raise DmfError(
            f"{path} is not a sound model of this project ({_reason(error)}). Fetch it again with "
            "dvc pull, or delete its folder and train again."
        ) from error
    for name, values in weights.items():
        if not values.isfinite().all():
            raise DmfError(
                f"{path}: {name} holds values that are not finite, so that every mask would be "
                "empty. Delete its folder and train again."
            )
    network.load_state_dict(weights, assign=True)
    # The memory format of the training, so that predictions are those that were scored.
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return Model(path, network.eval(), description)


def predict(
    model_file: Path, images: npt.NDArray[np.uint8], batch_size: int = 32
) -> npt.NDArray[np.uint8]:
    """Return class indices, uint8 (N, H, W), for grey images uint8 (N, H, W).

    Raises DmfError as `read_model` and `Model.logits` do.
    """
    model = read_model(model_file)
    masks = [
        model.logits(images[start : start + batch_size]).argmax(1).to(torch.uint8)
        for start in range(0, len(images), batch_size)
    ]
    return torch.cat(masks).numpy()


def _compare(network: UNet, stream: Any) -> None:
    """Raise ValueError unless a file's tensors are those of the network, by their headers alone."""
    wanted = network.state_dict()
    if set(stream.keys()) != wanted.keys():
        raise ValueError("its tensors are not those of the network it describes")
    for name, tensor in wanted.items():
        stored = stream.get_slice(name)
        shape, dtype = tuple(stored.get_shape()), stored.get_dtype()
        if (shape, dtype) != (tuple(tensor.shape), DTYPES[tensor.dtype]):
            raise ValueError(
                f"{name} is {dtype} {shape}, not {DTYPES[tensor.dtype]} {tuple(tensor.shape)}"
            )


def _reason(error: Exception) -> str:
    if not isinstance(error, ValidationError):
        return str(error)
    first = error.errors(include_url=False, include_input=False)[0]
    key = ".".join(map(str, first["loc"]))
    return f"{key}: {first['msg']}" if key else first["msg"]
