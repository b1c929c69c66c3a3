"""What this torch can do with the GPUs that are there, asked before anything trains on them.

`ask` asks in a process of its own, so that the workflow's never holds a GPU; `examine` asks in a
process that trains. `check` has the reasons and the remedies.
"""

import os
import re
import subprocess
import sys
from collections.abc import Iterable, Sequence

from pydantic import ValidationError

from dmf.errors import DmfError
from dmf.settings import Settings

TIMEOUT_SECONDS = 300.0  # torch from a cold file system, then CUDA on a machine with many GPUs
BF16_AND_TF32 = (8, 0)  # the compute capability that multiplies them natively
DRIVER_SERIES = {"12": 525, "13": 580}  # the oldest that a CUDA of this major version runs on
OLDER_CUDA = "cu126"  # torch 2.13 comes for it too, with kernels from compute capability 5.0 on
COMMAND = (sys.executable, "-P", "-m", "dmf.training.probe")  # -P: what lies here is no module
CPU = "set execution.device: cpu, and the CPU trains"


class Device(Settings):
    """One GPU as torch sees it."""

    name: str
    capability: tuple[int, int]


class Probe(Settings):
    """A torch and its GPUs; ``error`` is what CUDA said, if it did not start."""

    torch: str
    cuda: str | None
    architectures: tuple[str, ...] = ()
    error: str | None = None
    devices: tuple[Device, ...] = ()


def examine() -> Probe:
    """Return what the torch of this process can do with the devices it sees; starts CUDA."""
    import torch

    version, cuda = str(torch.__version__), torch.version.cuda
    if cuda is None:
        return Probe(torch=version, cuda=None)
    architectures = tuple(torch.cuda.get_arch_list())
    try:
        torch.cuda.init()  # type: ignore[no-untyped-call]
        properties = [
            torch.cuda.get_device_properties(number) for number in range(torch.cuda.device_count())
        ]
    except Exception as error:  # of many classes, and all of them an answer
        return Probe(torch=version, cuda=cuda, architectures=architectures, error=str(error))
    devices = (Device(name=p.name, capability=(p.major, p.minor)) for p in properties)
    return Probe(torch=version, cuda=cuda, architectures=architectures, devices=tuple(devices))


def ask(names: Sequence[str], command: Sequence[str] = COMMAND) -> Probe:
    """Return what a new process, ``command``, finds out about the devices ``names``.

    Raises DmfError if it gives no answer.
    """
    try:
        done = subprocess.run(
            command,
            env={**os.environ, "CUDA_VISIBLE_DEVICES": ",".join(names)},
            capture_output=True,
            text=True,
            timeout=TIMEOUT_SECONDS,
        )
        return Probe.model_validate_json(done.stdout)
    except subprocess.TimeoutExpired:
        reason = f"no answer within {TIMEOUT_SECONDS:.0f} s"
    except ValidationError:
        reason = (done.stderr.strip() or f"exit status {done.returncode}").splitlines()[-1]
    raise DmfError(
        f"GPU {', '.join(names)} cannot be used: torch does not start ({reason}). "
        f"Check `nvidia-smi` and the installation; or {CPU}."
    )


def check(found: Probe, names: Sequence[str], precision: str) -> list[str]:
    """Return warnings about trainings in ``precision`` on the devices ``names``.

    Raises DmfError, with the reason and the remedies, if this torch cannot use one of them. `auto`
    raises too, rather than train a whole study on the CPU without a word.
    """
    problem = (
        _build_problem(found)
        or _driver_problem(found)
        or _count_problem(found, names)
        or _architecture_problem(found)
        or _tf32_problem(found, precision)
    )
    if problem is not None:
        raise DmfError(f"GPU {', '.join(names)} cannot be used: {problem}")
    slow = _names(device for device in found.devices if device.capability < BF16_AND_TF32)
    if precision == "bf16" and slow:
        return [
            f"training.precision = 'bf16' is slow on {slow}, which only emulates it (compute "
            "capability below 8.0). fp32 is faster there, and what auto chooses."
        ]
    if precision == "auto" and len(_precisions(found)) > 1:
        return [
            f"training.precision = 'auto' is fp32 on {slow} and bf16 on the others: where a run "
            "lands decides its last digits. Set one of them, or leave GPUs out with "
            "CUDA_VISIBLE_DEVICES."
        ]
    return []


def resolve_precision(found: Probe, precision: str) -> str:
    """Return what ``precision`` comes to on every device found: `auto` is bf16, or fp32."""
    return precision if precision != "auto" else " or ".join(sorted(_precisions(found)))


def _precisions(found: Probe) -> set[str]:
    return {"bf16" if d.capability >= BF16_AND_TF32 else "fp32" for d in found.devices}


def _build_problem(found: Probe) -> str | None:
    if found.cuda is not None:
        return None
    version = found.torch.partition("+")[0]
    return (
        f"torch {found.torch} is built without CUDA. Install one with it, for example `pip install "
        f"torch=={version}+cu130 --index-url https://download.pytorch.org/whl/cu130`; or {CPU}."
    )


def _driver_problem(found: Probe) -> str | None:
    error = found.error
    if error is None:
        return None
    series = DRIVER_SERIES.get(str(found.cuda).partition(".")[0])
    driver = f"a driver of the {series} series or newer" if series else "a newer driver"
    needs = f"torch {found.torch} needs {driver}"
    if re.search(r"too old|is insufficient", error):
        return (
            f"the NVIDIA driver is too old; {needs}. Install it, or a torch for an older CUDA"
            f"{_older_wheel(found)}; or {CPU}."
        )
    if "no NVIDIA driver" in error:
        return (
            f"no NVIDIA driver answers; {needs}. Install it, or give the container the GPU "
            f"(`--gpus all`, `--nv`); or {CPU}."
        )
    if "No CUDA GPUs" in error:
        return (
            "CUDA finds no GPU of that name. Compare CUDA_VISIBLE_DEVICES with `nvidia-smi -L`; "
            f"or {CPU}."
        )
    return f"CUDA does not start ({error.splitlines()[0]}). Check `nvidia-smi`; or {CPU}."


def _count_problem(found: Probe, names: Sequence[str]) -> str | None:
    # A process sees one MIG instance at most, and each training takes one.
    wanted = 1 if names[0].startswith("MIG-") else len(names)
    if len(found.devices) >= wanted:
        return None
    return (
        f"CUDA finds {len(found.devices)} of these {wanted}. Name the GPUs, or the MIG instances, "
        f"that trainings may use in CUDA_VISIBLE_DEVICES (`nvidia-smi -L` lists them); or {CPU}."
    )


def _architecture_problem(found: Probe) -> str | None:
    foreign = [device for device in found.devices if not _has_kernels(found, device)]
    if not foreign:
        return None
    wheel = _older_wheel(found) if foreign[0].capability < (9, 0) else ""
    capability = ".".join(map(str, foreign[0].capability))
    return (
        f"torch {found.torch} has kernels for {' '.join(found.architectures)}, and none for "
        f"{_names(foreign)} (compute capability {capability}). Install a torch that has"
        f"{wheel}; leave such GPUs out with CUDA_VISIBLE_DEVICES; or {CPU}."
    )


def _tf32_problem(found: Probe, precision: str) -> str | None:
    slow = _names(device for device in found.devices if device.capability < BF16_AND_TF32)
    if precision != "tf32" or not slow:
        return None
    return f"training.precision = 'tf32' needs compute capability 8.0, {slow} has less. Use auto."


def _has_kernels(found: Probe, device: Device) -> bool:
    """Return whether kernels for the device were built, or can be on the spot (compute_, PTX)."""
    for name in found.architectures:
        match = re.fullmatch(r"(sm|compute)_(\d+)(\d)[af]?", name)
        if match is None:
            continue
        built = (int(match[2]), int(match[3]))
        same_major = built[0] == device.capability[0]
        if built <= device.capability and (same_major or match[1] == "compute"):
            return True
    return False


def _older_wheel(found: Probe) -> str:
    """Return how to install this torch for an older CUDA, "" where it is that one."""
    version = f"{found.torch.partition('+')[0]}+{OLDER_CUDA}"
    index = f"https://download.pytorch.org/whl/{OLDER_CUDA}"
    if version == found.torch:
        return ""
    return f" (for example `pip install torch=={version} --index-url {index}`)"


def _names(devices: Iterable[Device]) -> str:
    return ", ".join(dict.fromkeys(device.name for device in devices))


if __name__ == "__main__":
    print(examine().model_dump_json())
