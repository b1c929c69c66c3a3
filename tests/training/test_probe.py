"""GPUs that this torch cannot use: said once, with reason and remedy, before anything trains."""

import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from dmf.cli import app
from dmf.errors import DmfError
from dmf.training.probe import Device, Probe, ask, check, examine

from conftest import TINY, dmf

ARCHITECTURES = ("sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120")
CPU_WHEEL = Probe(torch="2.13.0+cpu", cuda=None)
OLD = "The NVIDIA driver on your system is too old (found version 12040). Please update your GPU"
NONE = "Found no NVIDIA driver on your system. Please check that you have an NVIDIA GPU"
V100, T4 = ("Tesla V100-SXM2-16GB", (7, 0)), ("Tesla T4", (7, 5))
RTX4090, H100 = ("NVIDIA GeForce RTX 4090", (8, 9)), ("NVIDIA H100 80GB HBM3", (9, 0))


def found(*devices: tuple[str, tuple[int, int]], **parts: Any) -> Probe:
    seen = tuple(Device(name=name, capability=capability) for name, capability in devices)
    known = {"torch": "2.13.0+cu130", "cuda": "13.0", "architectures": ARCHITECTURES}
    return Probe(**{**known, "devices": seen, **parts})


CUDA_126 = "torch==2.13.0+cu126 --index-url https://download.pytorch.org/whl/cu126"


@pytest.mark.parametrize(
    ("probe", "names", "precision", "said"),
    [
        (CPU_WHEEL, ["0"], "auto", ["built without CUDA", "torch==2.13.0+cu130"]),
        (found(error=OLD), ["0"], "auto", ["too old", "the 580 series or newer", CUDA_126]),
        (
            found(error=OLD, torch="2.13.0+cu126", cuda="12.6"),
            ["0"],
            "auto",
            ["the 525 series or newer. Install it, or a torch for an older CUDA; or"],
        ),
        (found(error=NONE), ["0"], "auto", ["no NVIDIA driver answers", "580", "`--gpus all`"]),
        (found(error="No CUDA GPUs are available"), ["3"], "auto", ["GPU 3 ", "`nvidia-smi -L`"]),
        (found(error="Error 802: x\nmore"), ["0"], "auto", ["does not start (Error 802: x)"]),
        (found(H100), ["0", "7"], "auto", ["CUDA finds 1 of these 2"]),
        (found(V100, V100), ["0", "1"], "auto", ["Tesla V100-SXM2-16GB (compute capability 7.0)"]),
        (found(H100, ("P100", (6, 0))), ["0", "1"], "auto", ["none for P100 (", CUDA_126]),
        (found(("X", (11, 0))), ["0"], "auto", ["Install a torch that has; leave"]),
        (found(T4), ["0"], "tf32", ["'tf32' needs compute capability 8.0, Tesla T4 has less"]),
    ],
)
def test_a_gpu_that_cannot_be_used_is_explained_in_one_message(
    probe: Probe, names: list[str], precision: str, said: list[str]
) -> None:
    with pytest.raises(DmfError) as raised:
        check(probe, names, precision)
    text = str(raised.value)
    assert text.startswith(f"GPU {', '.join(names)} cannot be used: ")
    assert "\n" not in text
    for words in said:
        assert words in text
    if precision == "auto":
        assert text.endswith("set execution.device: cpu, and the CPU trains.")


@pytest.mark.parametrize(
    "probe",
    [
        found(H100, RTX4090, T4),
        found(H100, error=None, architectures=("sm_90a", "sm_90")),
        found(("B300", (10, 3)), ("GB10", (12, 1))),
        found(("later", (13, 0)), architectures=(*ARCHITECTURES, "compute_120")),
    ],
)
def test_kernels_run_within_a_major_version_or_are_built_on_the_spot(probe: Probe) -> None:
    names = [str(number) for number in range(len(probe.devices))]
    assert check(probe, names, "fp32") == []


def test_a_process_sees_one_mig_instance() -> None:
    assert check(found(H100), ["MIG-a", "MIG-b"], "auto") == []


def test_emulated_bf16_is_allowed_but_warned_of() -> None:
    (warning,) = check(found(T4, H100), ["0", "1"], "bf16")
    assert "'bf16' is slow on Tesla T4, which only emulates it" in warning
    assert check(found(T4, H100), ["0", "1"], "fp32") == []
    (warning,) = check(found(T4, H100), ["0", "1"], "auto")
    assert "'auto' is fp32 on Tesla T4 and bf16 on the others" in warning
    assert check(found(T4, T4), ["0", "1"], "auto") == []
    assert check(found(H100), ["0"], "bf16") == []
    assert check(found(H100), ["0"], "tf32") == []


@pytest.mark.slow
def test_another_process_answers(tmp_path: Path) -> None:
    """The real torch of this environment, and programs in its place."""
    import torch

    probe = ask(["0"])
    assert (probe.torch, probe.cuda) == (torch.__version__, torch.version.cuda)
    expected = found(H100).model_dump_json()
    program = f"import os; assert os.environ['CUDA_VISIBLE_DEVICES'] == '3,1'; print({expected!r})"
    assert ask(["3", "1"], [sys.executable, "-c", program]) == found(H100)
    broken = "raise ImportError('libcudart.so.13: cannot open shared object file')"
    with pytest.raises(DmfError, match=r"torch does not start \(ImportError: libcudart") as raised:
        ask(["0"], [sys.executable, "-c", broken])
    assert "\n" not in str(raised.value)
    with pytest.raises(DmfError, match=r"torch does not start \(exit status 3\)"):
        ask(["0"], [sys.executable, "-c", "raise SystemExit(3)"])


def test_this_process_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    def refuse() -> None:
        raise RuntimeError(NONE)

    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: ["sm_75"])
    monkeypatch.setattr(torch.cuda, "init", refuse)
    version = str(torch.__version__)
    assert examine() == Probe(torch=version, cuda="13.0", architectures=("sm_75",), error=NONE)


@pytest.fixture
def without_cuda() -> None:
    import torch

    if torch.version.cuda is not None:
        pytest.skip("this torch can use a GPU")


@pytest.mark.usefixtures("without_cuda")
@pytest.mark.slow
def test_the_commands_say_where_a_study_would_train(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    auto = {**TINY, "execution": {"device": "auto"}}
    Path("params.yaml").write_text(yaml.safe_dump(auto))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert "trainings here run on the CPU" in dmf("check").stdout
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    for command in ("check", "plan"):
        done = dmf(command)
        assert done.returncode == 1
        assert done.stderr.startswith("error: GPU 0 cannot be used: torch ")
        assert done.stderr.count("\n") == 1


def test_check_names_devices_slots_and_precision(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = {**TINY, "training": {"precision": "auto"}, "execution": {"slots": 3}}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(study))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    for seen, precision in ((found(H100, H100), "bf16"), (found(H100, T4), "bf16 or fp32")):
        monkeypatch.setattr("dmf.training.probe.ask", lambda names, seen=seen: seen)
        said = CliRunner().invoke(app, ["check", "--params", str(tmp_path / "params.yaml")])
        where = "trainings here run on GPU 0, 1 (3 at a time on each)"
        assert said.output.splitlines()[-1] == f"{where}, in {precision}"
