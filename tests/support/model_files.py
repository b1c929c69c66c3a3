"""Model files as `dmf train` writes them, of a network that was never trained."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from dmf.unet import UNet

DESCRIPTION: dict[str, Any] = {
    "filters": [4, 8],
    "classes": 2,
    "momentum": 0.9,
    "skip_connections": True,
    "preprocessing": {
        "image_size": 32,
        "filter": {
            "apply": True,
            "diameter": 5,
            "sigma_color": 75.0,
            "sigma_space": 75.0,
            "order": "before_resize",
        },
    },
    "key": "0" * 64,
}


def weights(seed: int = 0, classes: int = 2) -> dict[str, torch.Tensor]:
    """Return the state of a network with random weights."""
    network = UNet((4, 8), classes=classes, generator=torch.Generator().manual_seed(seed))
    return dict(network.state_dict())


def write_model(path: Path, tensors: dict[str, torch.Tensor] | None = None, **changes: Any) -> Path:
    """Write a model file whose description has ``changes``; return its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = weights(classes=changes.get("classes", 2)) if tensors is None else tensors
    save_file(tensors, path, {"dmf": json.dumps(DESCRIPTION | changes)})
    return path
