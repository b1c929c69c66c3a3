"""What one update of the fusion costs, alone and as a share of a training step of the U-Net.

    python benchmarks/fusion.py                   # CPU time, one thread
    python benchmarks/fusion.py --device cuda     # steps captured in CUDA graphs

Writes docs/benchmarks/fusion-<device>.json and renders docs/benchmarks/fusion.md from all of them.
Two peers are measured where they are importable: TorchJD's DWA (`pip install torchjd`) and the
PyTorch version of SoftAdapt (github.com/dr-aheydari/SoftAdapt; the package of that name on PyPI is
another one, for Keras).
"""

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dmf.fusion import WEIGHTINGS, DynamicMemoryFusion
from dmf.losses import SegmentationLosses
from dmf.training.engine import resolve_precision
from dmf.unet import UNet

OUTPUT = Path(__file__).parents[1] / "docs" / "benchmarks"
BATCH, SIZE, WARMUP = 32, 128, 50

Fuse = Callable[[Tensor, Tensor], Tensor]


def own_fusions(device: torch.device) -> dict[str, Fuse]:
    """A fusion of each weighting, K = 3 and window 150, past its warm-up."""
    fusions: dict[str, Fuse] = {}
    for weighting in WEIGHTINGS:
        fusion = DynamicMemoryFusion(3, weighting, warmup=WARMUP, window=150).to(device)
        for losses in torch.rand(WARMUP, 3, device=device):
            fusion(losses)
        fusions[weighting] = fusion
    return fusions


def peers() -> tuple[dict[str, Fuse], list[str]]:
    """The peers that can be imported, and a line about each that cannot."""
    found: dict[str, Fuse] = {}
    missing = []
    try:
        scalarizer = import_module("torchjd.scalarization").DWA()
    except ImportError:
        missing.append("TorchJD's DWA was not installed.")
    else:

        def dwa(losses: Tensor, auxiliary: Tensor) -> Tensor:
            total: Tensor = scalarizer(losses) + auxiliary
            scalarizer.step()  # its epoch: new weights every time, as the others
            return total

        found[f"TorchJD {version('torchjd')} DWA"] = dwa
    try:
        algorithm = import_module("softadapt").SoftAdapt(beta=0.1)
    except ImportError:
        missing.append("The PyTorch version of SoftAdapt was not installed.")
    else:
        history: list[Tensor] = []

        def softadapt(losses: Tensor, auxiliary: Tensor) -> Tensor:
            history.append(losses.detach().cpu())
            del history[:-5]
            if len(history) < 5:
                return losses.mean() + auxiliary
            rows = torch.stack(history).T
            weights = algorithm.get_component_weights(*rows, verbose=False)
            total: Tensor = (weights.to(losses) * losses).sum() + auxiliary
            return total

        found["SoftAdapt (its authors')"] = softadapt
    return found, missing


def update_times(fusions: dict[str, Fuse], repeats: int) -> dict[str, float]:
    """Median seconds of one update with its backward pass to the losses, taken in turns."""
    times: dict[str, list[float]] = {name: [] for name in fusions}
    for _ in range(repeats):
        for name, fuse in fusions.items():
            losses = torch.rand(3, requires_grad=True)
            auxiliary = torch.rand((), requires_grad=True)
            start = time.process_time()
            torch.autograd.backward(fuse(losses, auxiliary))
            times[name].append(time.process_time() - start)
    return {name: statistics.median(values) for name, values in times.items()}


class Step:
    """One training step of the study's network with a given fusion."""

    def __init__(self, fuse: Fuse, device: torch.device) -> None:
        self.fuse = fuse
        generator = torch.Generator().manual_seed(0)
        self.model = UNet(generator=generator).to(device)
        self.model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.losses = SegmentationLosses(auxiliary="cb_dice")
        cuda = device.type == "cuda"
        self.optimiser = torch.optim.Adam(
            self.model.parameters(), lr=1e-3, eps=1e-7, capturable=cuda, foreach=True
        )
        images = torch.rand(BATCH, 1, SIZE, SIZE, generator=generator)
        masks = torch.randint(0, 2, (BATCH, SIZE, SIZE), generator=generator, dtype=torch.uint8)
        self.images = images.to(device, memory_format=torch.channels_last)
        self.masks = masks.to(device)
        low = resolve_precision("auto", device) == "bf16"
        self.precision = torch.autocast(device.type, torch.bfloat16, enabled=low)

    def __call__(self) -> None:
        with self.precision:
            logits = self.model(self.images)
        base, auxiliary = self.losses(logits, self.masks)
        self.optimiser.zero_grad(set_to_none=True)
        torch.autograd.backward(self.fuse(base, auxiliary))
        self.optimiser.step()


def cpu_step_times(fusions: dict[str, Fuse], repeats: int) -> dict[str, float]:
    """Median seconds of a training step with each fusion, taken in turns."""
    steps = {name: Step(fuse, torch.device("cpu")) for name, fuse in fusions.items()}
    times: dict[str, list[float]] = {name: [] for name in steps}
    for repeat in range(repeats + 1):
        for name, step in steps.items():
            start = time.process_time()
            step()
            if repeat:  # the first only warms up
                times[name].append(time.process_time() - start)
    return {name: statistics.median(values) for name, values in times.items()}


def cuda_step_times(fusions: dict[str, Fuse], repeats: int) -> dict[str, float]:
    """Median seconds of a replay of a captured training step with each fusion, taken in turns."""
    graphs = {}
    keep = []
    for name, fuse in fusions.items():
        step = Step(fuse, torch.device("cuda"))
        keep.append(step)
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                step()
        torch.cuda.current_stream().wait_stream(stream)
        graphs[name] = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graphs[name]):
            step()
    times: dict[str, list[float]] = {name: [] for name in graphs}
    for _ in range(repeats):
        for name, graph in graphs.items():
            start = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
            end = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
            torch.cuda.synchronize()
            start.record()
            for _ in range(10):
                graph.replay()
            end.record()
            end.synchronize()
            times[name].append(start.elapsed_time(end) / 10 / 1000)
    return {name: statistics.median(values) for name, values in times.items()}


def measure(device: torch.device, updates: int, steps: int) -> dict[str, Any]:
    """All numbers of one device, in seconds."""
    adaptive = ("fixed", "variance", "mad", "bayesian")
    result: dict[str, Any] = {
        "device": device.type,
        "torch": torch.__version__,
        "precision": resolve_precision("auto", device),
    }
    fusions = own_fusions(device)
    if device.type == "cuda":
        compiled = {
            f"{name}, compiled": torch.compile(fusions[name], fullgraph=True) for name in adaptive
        }
        captured = {name: fusions[name] for name in adaptive} | compiled
        return result | {
            "machine": torch.cuda.get_device_name(),
            "step": cuda_step_times(captured, steps),
        }
    others, missing = peers()
    return result | {
        "machine": f"{platform.machine()}, one thread, CPU time",
        "missing": missing,
        "update": update_times(fusions | others, updates),
        "step": cpu_step_times({name: fusions[name] for name in adaptive}, steps),
    }


def render(results: list[dict[str, Any]]) -> str:
    lines = [
        "# Cost of the fusion",
        "",
        "Written by `python benchmarks/fusion.py` (with `--device cuda` for the captured steps)",
        "from the JSON files beside it. Three base losses and an auxiliary, window 150; a step is",
        f"the study's U-Net with {BATCH} images of {SIZE}x{SIZE} pixels. Medians.",
    ]
    for result in results:
        step = result["step"]
        lines += ["", f"## {result['device'].upper()}", ""]
        lines += [f"{result['machine']}; PyTorch {result['torch']}, {result['precision']}.", ""]
        if "update" in result:
            update, base = result["update"], step["fixed"]
            lines += [
                "One update and its backward pass, and what it costs more than fixed weights, as a",
                f"share of a training step with fixed weights ({base * 1e3:.0f} ms).",
                "",
                "| weighting | update, µs | more than fixed, µs | share of a step |",
                "|---|---:|---:|---:|",
            ]
            for name, seconds in update.items():
                more = seconds - update["fixed"]
                lines.append(
                    f"| {name} | {seconds * 1e6:.0f} | {more * 1e6:.0f} | {more / base:.2%} |"
                )
            lines += ["", *result["missing"]]
            lines += [
                "Whole steps, in turns, differ by their noise, not by what the fusion costs:",
                "",
            ]
        lines += ["| weighting | step, ms | against fixed |", "|---|---:|---:|"]
        for name, seconds in step.items():
            base = step["fixed, compiled" if "compiled" in name else "fixed"]
            lines.append(f"| {name} | {seconds * 1e3:.3f} | {seconds / base - 1:+.1%} |")
    if all(result["device"] != "cuda" for result in results):
        lines += ["", "The captured GPU step has not been measured yet."]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--updates", type=int, default=500, help="updates timed for each weighting")
    parser.add_argument("--steps", type=int, default=15, help="steps timed for each weighting")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    result = measure(torch.device(arguments.device), arguments.updates, arguments.steps)
    OUTPUT.mkdir(parents=True, exist_ok=True)
    cpu = torch.backends.cpu.get_cpu_capability().lower()
    path = OUTPUT / f"fusion-{cpu if arguments.device == 'cpu' else 'cuda'}.json"
    path.write_text(json.dumps(result, indent=1) + "\n")
    results = [json.loads(each.read_text()) for each in sorted(OUTPUT.glob("fusion-*.json"))]
    (OUTPUT / "fusion.md").write_text(render(results))
    print(render(results))


if __name__ == "__main__":
    main()
