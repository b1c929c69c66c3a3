"""Images per second of this project's training step against a plain PyTorch loop.

    python benchmarks/training.py [--device cuda] [--rounds 5] [--steps 4] [--threads 2]
                                  [--keras PYTHON]

Every measurement is a process of its own, the variants take turns, and ratios are taken round by
round, so that a noisy machine disturbs all of them alike. Writes docs/benchmarks/training.md, and
training-cuda.json or that of the processor's vector instructions (training-avx2.json). The plain
loop is what people write first: fp32, contiguous images from a DataLoader, MONAI's losses,
`.item()` at every step; it needs `monai` (see `make test`).
Keras needs an interpreter with TensorFlow (see `keras_loop.py`). "One job a core" is as many
trainings of one thread side by side as the others have threads, which is how the study runs.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

RESULTS = Path(__file__).parents[1] / "docs/benchmarks"
SIZE, BATCH, FILTERS = 128, 32, (32, 64, 128, 256)
GFLOP_PER_IMAGE = 4.335  # forward and backward of the U-Net at 128 x 128, by torch's flop counter
VARIANTS = ("plain", "fp32", "fp32, one job a core", "fp32, default allocator", "bf16")
LABELS = {
    "plain": "plain PyTorch loop",
    "keras": "Keras on TensorFlow 2.17, eager",
    "fp32": "this project, fp32",
    "fp32, one job a core": "this project, fp32, one job a core",
    "bf16": "this project, bf16",
    "fp32, default allocator": "this project, fp32, glibc's default allocator",
}
# Groups of operations by parts of the names the profiler gives them, CPU and CUDA.
OPERATIONS = {
    "convolutions, forward": ("aten::_convolution", "mkldnn_convolution", "fprop"),
    "convolutions, gradient of the input": ("convolution_backward", "dgrad"),
    "convolutions, gradient of the weights": (
        "addmm_",
        "aten::copy_",
        "_ConvolutionBackward",
        "wgrad",
    ),
    "batch norm": ("batch_norm", "bn_fw", "bn_bw"),
    "ReLU": ("threshold_backward", "clamp_min"),
    "concatenation and sums of gradients": ("aten::cat", "aten::add", "CatArray"),
    "pooling": ("pool",),
}


def make_data(images: int) -> tuple[np.ndarray, np.ndarray]:
    """Return noise images and masks: the time of a step does not depend on what they show."""
    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 256, (images, SIZE, SIZE), dtype=np.uint8)
    return pictures, (rng.random((images, SIZE, SIZE)) < 0.1).astype(np.uint8)


def plain_steps(device_name: str, steps: int) -> list[float]:
    """Return the seconds of each step of the plain loop."""
    import torch
    from monai.losses import DiceLoss
    from torch.utils.data import DataLoader, TensorDataset

    from dmf.unet import UNet

    device = torch.device(device_name)
    pictures, masks = make_data(BATCH * (steps + 1))
    dataset = TensorDataset(
        torch.from_numpy(pictures)[:, None].float() / 255, torch.from_numpy(masks).long()
    )
    network = UNet(FILTERS).to(device)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3, eps=1e-7)
    cross_entropy = torch.nn.CrossEntropyLoss()
    dice = DiceLoss(softmax=True, to_onehot_y=True, batch=True)
    iou = DiceLoss(softmax=True, to_onehot_y=True, batch=True, jaccard=True)
    seconds = []
    begin = time.perf_counter()
    for images, truth in DataLoader(dataset, BATCH, shuffle=True):
        images, truth = images.to(device), truth.to(device)
        logits = network(images)
        labels = truth[:, None]
        parts = (cross_entropy(logits, truth), iou(logits, labels), dice(logits, labels))
        loss = sum(part / 3 for part in parts)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        _ = [part.item() for part in parts]
        end = time.perf_counter()
        seconds.append(end - begin)
        begin = end
    return seconds[1:]


def engine_steps(variant: str, device_name: str, threads: int, steps: int) -> list[float]:
    """Return the seconds per step of two timed epochs after one that is not timed."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    import torch

    from dmf.training import engine

    device = torch.device(device_name)
    precision = variant.split(",")[0]
    if "default allocator" in variant:
        engine._keep_freed_memory = lambda: None
    runner = make_engine(device, threads, precision, steps)
    seconds = []
    for epoch in range(1, 4):
        begin = time.perf_counter()
        runner.run_epoch(epoch)  # reads the history back, and so waits for the device
        seconds.append((time.perf_counter() - begin) / steps)
    return seconds[1:]


def make_engine(device: Any, threads: int, precision: str, steps: int) -> Any:
    """Return the engine of a run of the paper's network, ``steps`` steps an epoch."""
    from dmf.study import Study
    from dmf.training import engine

    engine.configure(device, threads, precision)
    study = Study.from_mapping(
        {
            "study": {"datasets": ["x"], "configurations": ["cb_dice-variance"]},
            "datasets": {"x": {"kind": "phantom"}},
        }
    )
    pictures, masks = make_data(BATCH * steps)
    return engine.Engine(
        study.run_parameters("cb_dice-variance"),
        pictures,
        masks,
        2,
        np.arange(len(pictures)),
        seed=0,
        device=device,
        precision=precision,
    )


def shares(device_name: str, threads: int) -> dict[str, float]:
    """Return the share of a step's time in each group of operations, by torch's profiler."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    import torch
    from torch.profiler import ProfilerActivity, profile

    cuda = device_name == "cuda"
    runner = make_engine(torch.device(device_name), threads, "bf16" if cuda else "fp32", 4)
    runner.run_epoch(1)
    kinds = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])]
    with profile(activities=kinds) as profiler:
        runner.run_epoch(2)
    found = dict.fromkeys([*OPERATIONS, "everything else"], 0.0)
    for event in profiler.key_averages():
        names = (group for group, marks in OPERATIONS.items() if any(m in event.key for m in marks))
        time_of = event.self_device_time_total if cuda else event.self_cpu_time_total
        found[next(names, "everything else")] += time_of
    total = sum(found.values())
    if not total:  # a profiler that may not look at the device sees no event there
        return {}
    return {group: spent / total for group, spent in found.items()}


def measure_one(variant: str, device: str, threads: int, steps: int) -> dict[str, float]:
    """Run one variant in this process and return its median step and its peak memory."""
    import torch

    torch.set_num_threads(threads)
    if variant == "plain":
        seconds = plain_steps(device, steps)
    else:
        seconds = engine_steps(variant, device, threads, steps)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"seconds": statistics.median(seconds), "peak_bytes": peak}


def matrix_peaks(threads: int) -> dict[str, float]:
    """Return the GFLOP/s of ``threads`` cores by precision: the best of five products on one."""
    import torch

    torch.set_num_threads(1)
    peaks = {}
    for precision, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        a = torch.rand(1536, 1536).to(dtype)
        times = []
        for _ in range(5):
            begin = time.perf_counter()
            a @ a
            times.append(time.perf_counter() - begin)
        peaks[precision] = threads * 2 * 1536**3 / min(times) / 1e9
    return peaks


def main() -> None:
    """Measure all variants in turn and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS), choices=VARIANTS)
    parser.add_argument("--keras", metavar="PYTHON", help="interpreter that has TensorFlow")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one == "shares":
        print(json.dumps(shares(options.device, options.threads)))
        return
    if options.one:
        print(json.dumps(measure_one(options.one, options.device, options.threads, options.steps)))
        return
    variants = [*options.variants, *(["keras"] if options.keras else [])]
    rounds: list[dict[str, Any]] = []
    for number in range(options.rounds):
        row = {}
        for variant in variants:
            row[variant] = measure_apart(variant, options)
            print(f"round {number + 1}: {variant}: {row[variant]['seconds']:.3f} s a step")
        rounds.append(row)
    write(options, rounds)


def measure_apart(variant: str, options: argparse.Namespace) -> dict[str, float]:
    """Measure one variant in processes of its own; `seconds` are those of one step of them all."""
    jobs = options.threads if "one job a core" in variant else 1
    if variant == "keras":
        command = [options.keras, str(Path(__file__).with_name("keras_loop.py"))]
    else:
        command = [sys.executable, __file__, "--one", variant, "--device", options.device]
    command += ["--steps", str(options.steps), "--threads", str(options.threads // jobs)]
    started = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(jobs)]
    outputs = [job.communicate()[0] for job in started]
    if any(job.returncode for job in started):
        raise SystemExit(f"{' '.join(command)} failed")
    measured = [json.loads(output.splitlines()[-1]) for output in outputs]
    return {
        "seconds": 1 / sum(1 / one["seconds"] for one in measured),
        "peak_bytes": max(one["peak_bytes"] for one in measured),
    }


def shares_apart(options: argparse.Namespace) -> dict[str, float]:
    """Profile a step in a process of its own, as torch's settings are a process's."""
    command = [sys.executable, __file__, "--one", "shares", "--device", options.device]
    done = subprocess.run(
        [*command, "--threads", "1"], stdout=subprocess.PIPE, text=True, check=True
    )
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def write(options: argparse.Namespace, rounds: list[dict[str, Any]]) -> None:
    """Write the measurements as JSON, and all devices' JSON files as one page."""
    import torch

    from dmf.provenance import processor

    cuda = options.device == "cuda"
    record = {
        "device": torch.cuda.get_device_name() if cuda else processor(),
        "capability": "" if cuda else torch.backends.cpu.get_cpu_capability(),
        "threads": options.threads,
        "torch": torch.__version__,
        "load": os.getloadavg()[0],
        "rounds": rounds,
        "shares": shares_apart(options),
        "peak_gflops": {} if cuda else matrix_peaks(options.threads),
    }
    RESULTS.mkdir(parents=True, exist_ok=True)
    kind = "cuda" if cuda else str(record["capability"]).lower()
    (RESULTS / f"training-{kind}.json").write_text(json.dumps(record, indent=1) + "\n")
    write_page()


def write_page() -> None:
    """Write the page of what all devices measured."""
    page = ["# Training speed", "", (__doc__ or "").split("\n\n")[0], ""]
    page += [
        "The paper's U-Net at 128 × 128, batch 32. Cells are minimum – median – maximum over the",
        "rounds; ratios are taken within a round. Regenerate: `python benchmarks/training.py`.",
        "",
    ]
    for path in sorted(RESULTS.glob("training-*.json")):
        page += _section(json.loads(path.read_text()))
    (RESULTS / "training.md").write_text("\n".join(page) + "\n")


def _section(record: dict[str, Any]) -> list[str]:
    rounds, peaks = record["rounds"], record["peak_gflops"]
    kind = f" ({record['capability']})" if record["capability"] else ""
    lines = [
        f"## {record['device']}{kind}, {record['threads']} thread(s), torch {record['torch']}",
        "",
        f"{len(rounds)} rounds; load average at the end {record['load']:.1f}. "
        + " ".join(f"{name} matrix peak {peak:.0f} GFLOP/s." for name, peak in peaks.items()),
        "",
        "| variant | images/s | times the plain loop | GFLOP/s | of its peak | memory of a job |",
        "|---|---|---|---|---|---|",
    ]
    for variant in rounds[0]:
        rates = [BATCH / row[variant]["seconds"] for row in rounds]
        ratios = [row["plain"]["seconds"] / row[variant]["seconds"] for row in rounds]
        gflops = statistics.median(rates) * GFLOP_PER_IMAGE
        peak = peaks.get("bf16" if variant == "bf16" else "fp32")
        share = f"{gflops / peak:.0%}" if peak else "–"
        memory = max(row[variant]["peak_bytes"] for row in rounds) / 1e9
        lines.append(
            f"| {LABELS[variant]} | {_spread(rates, 1)} | {_spread(ratios, 2)} | {gflops:.0f} "
            f"| {share} | {memory:.2f} GB |"
        )
    if peaks:
        plain = BATCH / statistics.median(row["plain"]["seconds"] for row in rounds)
        bounds = [f"{peak / (plain * GFLOP_PER_IMAGE):.1f} in {n}" for n, peak in peaks.items()]
        lines += [
            "",
            "A step that only multiplied, at the peak, would be this many times as fast as the",
            f"plain loop: {', '.join(bounds)}.",
        ]
    if record["shares"]:
        lines += ["", "Where the time of a step goes (one thread):", "", "| operations | share |"]
        lines += ["|---|---|"]
        lines += [f"| {name} | {part:.0%} |" for name, part in record["shares"].items()]
    return [*lines, ""]


def _spread(values: list[float], digits: int) -> str:
    middle = statistics.median(values)
    return " – ".join(f"{value:.{digits}f}" for value in (min(values), middle, max(values)))


if __name__ == "__main__":
    main()
