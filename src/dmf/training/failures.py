"""Failures of the machine that a person can mend, recognised by name and text.

Torch raises most of them as RuntimeError, with one of a few fixed texts; it is not imported here.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dmf.errors import DmfError

# While torch tries the plans of cuDNN it takes any shortage of memory for a plan that does not fit,
# and in the end finds no engine.
OUT_OF_MEMORY = re.compile(
    r"out of memory|allocate memory|unable to find an engine to execute this computation"
    r"|CUDNN_STATUS_ALLOC_FAILED|CUBLAS_STATUS_ALLOC_FAILED"
)
OTHERS = {
    r"busy or unavailable": (
        "the GPU is busy. Another process holds it, or it admits only one process (compute mode "
        "EXCLUSIVE_PROCESS). Set execution.slots to 1, or wait until it is free; then give the "
        "same command again."
    ),
    r"unspecified launch failure|launch timed out|ECC error|hardware (stack )?error|GPU is lost"
    r"|fallen off the bus|CUDA error: unknown error": (
        "the GPU failed. Give the same command again: the training continues from its checkpoint. "
        "If the GPU fails again, `nvidia-smi` and the kernel's log (`dmesg`, Xid) say more."
    ),
    r"No CUDA GPUs are available|no CUDA-capable device|no NVIDIA driver|driver on your system is"
    r" too old|driver version is insufficient|unsupported display driver|not compiled with CUDA"
    r"|no kernel image is available|unsupported toolchain|system not yet initialized": (
        "this torch cannot use the GPU. `dmf check` on this machine says why, and what helps; with "
        "execution.device: cpu the CPU trains."
    ),
}


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether ``error`` says that memory is short, on the CPU or on a GPU."""
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError)
        and (
            type(error).__name__ == "OutOfMemoryError"
            or OUT_OF_MEMORY.search(str(error)) is not None
        )
    )


@contextmanager
def device_errors_explained(where: Path | str, batch_size: int) -> Iterator[None]:
    """Explain what the device refuses within the block, and leave all other errors alone.

    Raises DmfError, which begins with ``where``, for memory that is short and for a GPU that is
    busy, lost, or not to be used with this torch.
    """
    try:
        yield
    except (MemoryError, RuntimeError, AssertionError) as error:
        reason = _reason(error, batch_size)
        if reason is None:
            raise
        text = str(error).strip() or type(error).__name__
        raise DmfError(f"{where}: {reason} ({text.splitlines()[0]})") from error


def _reason(error: BaseException, batch_size: int) -> str | None:
    if is_out_of_memory(error):
        return (
            f"out of memory. Lower training.batch_size (now {batch_size}), model.filters or "
            "data.image_size; on a shared GPU set execution.slots to a lower number."
        )
    return next((reason for text, reason in OTHERS.items() if re.search(text, str(error))), None)
