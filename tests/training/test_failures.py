"""Failures of the machine: recognised by what torch says, explained, and no other touched."""

from collections.abc import Callable
from pathlib import Path

import pytest

from dmf.errors import DmfError
from dmf.training.failures import device_errors_explained, is_out_of_memory


class OutOfMemoryError(RuntimeError):
    """As torch calls its own."""


class AcceleratorError(RuntimeError):
    """Likewise."""


CPU = "[enforce fail at alloc_cpu.cpp:127] . DefaultCPUAllocator: can't allocate memory: you tried"
HINT = "\nCUDA kernel errors might be asynchronously reported at some other API call"


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB."),
        OutOfMemoryError("an allocator of somebody's own"),
        RuntimeError(CPU),
        AcceleratorError(f"CUDA error: out of memory{HINT}"),
        RuntimeError("GET was unable to find an engine to execute this computation"),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    ],
)
def test_every_form_of_short_memory(error: Exception) -> None:
    assert is_out_of_memory(error)
    with (
        pytest.raises(DmfError, match=r"^run: out of memory\. .*batch_size \(now 6\)") as raised,
        device_errors_explained(Path("run"), 6),
    ):
        raise error
    assert raised.value.__cause__ is error
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (AcceleratorError(f"CUDA error: CUDA-capable device(s) is/are busy or unavailable{HINT}"),
         "execution.slots to 1"),
        (RuntimeError("CUDA error: all CUDA-capable devices are busy or unavailable"),
         "EXCLUSIVE_PROCESS"),
        (AcceleratorError(f"CUDA error: unspecified launch failure{HINT}"), "the GPU failed"),
        (AcceleratorError(f"CUDA error: uncorrectable ECC error encountered{HINT}"), "Xid"),
        (AcceleratorError(f"CUDA error: unknown error{HINT}"), "continues from its checkpoint"),
        (RuntimeError("No CUDA GPUs are available"), "`dmf check`"),
        (RuntimeError("The NVIDIA driver on your system is too old (found version 12040)."),
         "execution.device: cpu"),
        (RuntimeError("Found no NVIDIA driver on your system."), "`dmf check`"),
        (RuntimeError("CUDA error: no kernel image is available for execution on the device"),
         "this torch cannot use the GPU"),
        (RuntimeError("CUDA driver version is insufficient for CUDA runtime version"),
         "this torch cannot use the GPU"),
        (AssertionError("Torch not compiled with CUDA enabled"), "this torch cannot use the GPU"),
    ],
)  # fmt: skip
def test_what_a_gpu_refuses_is_explained(error: Exception, words: str) -> None:
    assert not is_out_of_memory(error)
    with pytest.raises(DmfError, match=r"^run: ") as raised, device_errors_explained("run", 6):
        raise error
    assert words in str(raised.value)
    assert str(error).splitlines()[0] in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "make",
    [
        lambda: RuntimeError("The size of tensor a (3) must match the size of tensor b (4)"),
        lambda: RuntimeError("CUDA error: an illegal memory access was encountered"),
        lambda: AssertionError("a bug"),
        lambda: ValueError("out of memory, says somebody else"),
        lambda: DmfError("explained already"),
        lambda: KeyboardInterrupt(),
    ],
)
def test_other_errors_are_left_alone(make: Callable[[], BaseException]) -> None:
    error = make()
    with pytest.raises(type(error)) as raised, device_errors_explained("run", 6):
        raise error
    assert raised.value is error
    assert not is_out_of_memory(error)
