"""Dynamic Memory Fusion: adaptive multi-loss weighting, and the study that judges it.

>>> from dmf import DynamicMemoryFusion

Importing the package is cheap; torch is loaded with the first name that needs it.
"""

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dmf.fusion import DynamicMemoryFusion
    from dmf.losses import SegmentationLosses
    from dmf.metrics import SegmentationMetrics
    from dmf.unet import UNet

__all__ = ["DynamicMemoryFusion", "SegmentationLosses", "SegmentationMetrics", "UNet"]

_HOMES = {
    "DynamicMemoryFusion": "dmf.fusion",
    "SegmentationLosses": "dmf.losses",
    "SegmentationMetrics": "dmf.metrics",
    "UNet": "dmf.unet",
}

try:
    __version__ = version("dynamic-memory-fusion")
except PackageNotFoundError:  # a source tree that is not installed
    __version__ = "0+unknown"


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'dmf' has no attribute {name!r}")
