"""Images per second of this project's training step against a plain PyTorch loop.

    python benchmarks/training.py [--device cuda] [--rounds 5] [--steps 4] [--threads 1]

Every measurement is a process of its own, the variants take turns, and ratios are taken round by
round, so that a noisy machine disturbs all of them alike. Writes training-<device>.json and
training.md in docs/benchmarks/. The plain loop is what people write first: fp32, contiguous images
from a DataLoader, MONAI's losses, `.item()` at every step; it needs `monai` (see `make test`).
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
VARIANTS = ("plain", "fp32", "bf16", "fp32, default allocator")
LABELS = {
    "plain": "plain PyTorch loop",
    "fp32": "this project, fp32",
    "bf16": "this project, bf16",
    "fp32, default allocator": "this project, fp32, glibc's default allocator",
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

    from dmf.study import Study
    from dmf.training import engine

    device = torch.device(device_name)
    precision = variant.split(",")[0]
    if "default allocator" in variant:
        engine._keep_freed_memory = lambda: None
    engine.configure(device, threads, precision)
    study = Study.from_mapping(
        {
            "study": {"datasets": ["x"], "configurations": ["cb_dice-variance"]},
            "datasets": {"x": {"kind": "phantom"}},
        }
    )
    pictures, masks = make_data(BATCH * steps)
    runner = engine.Engine(
        study.run_parameters("cb_dice-variance"),
        pictures,
        masks,
        2,
        np.arange(len(pictures)),
        seed=0,
        device=device,
        precision=precision,
    )
    seconds = []
    for epoch in range(1, 4):
        begin = time.perf_counter()
        runner.run_epoch(epoch)  # reads the history back, and so waits for the device
        seconds.append((time.perf_counter() - begin) / steps)
    return seconds[1:]


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


def matrix_peak(precision: str, threads: int) -> float:
    """Return the GFLOP/s of a large matrix product on the CPU, the best of five."""
    import torch

    torch.set_num_threads(threads)
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    a = torch.rand(1536, 1536).to(dtype)
    times = []
    for _ in range(5):
        begin = time.perf_counter()
        a @ a
        times.append(time.perf_counter() - begin)
    return 2 * 1536**3 / min(times) / 1e9


def main() -> None:
    """Measure all variants in turn and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS), choices=VARIANTS)
    parser.add_argument("--one", choices=VARIANTS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure_one(options.one, options.device, options.threads, options.steps)))
        return
    rounds: list[dict[str, Any]] = []
    for number in range(options.rounds):
        row = {}
        for variant in options.variants:
            command = [sys.executable, __file__, "--one", variant, "--device", options.device]
            command += ["--steps", str(options.steps), "--threads", str(options.threads)]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            row[variant] = json.loads(done.stdout.splitlines()[-1])
            print(f"round {number + 1}: {variant}: {row[variant]['seconds']:.3f} s a step")
        rounds.append(row)
    write(options, rounds)


def write(options: argparse.Namespace, rounds: list[dict[str, Any]]) -> None:
    """Write the measurements as JSON, and all devices' JSON files as one page."""
    import torch

    from dmf.training.run import processor

    cuda = options.device == "cuda"
    record = {
        "device": torch.cuda.get_device_name() if cuda else processor(),
        "capability": "" if cuda else torch.backends.cpu.get_cpu_capability(),
        "threads": options.threads,
        "torch": torch.__version__,
        "load": os.getloadavg()[0],
        "rounds": rounds,
        "peak_gflops": None
        if cuda
        else {p: matrix_peak(p, options.threads) for p in ("fp32", "bf16")},
    }
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / f"training-{options.device}.json").write_text(json.dumps(record, indent=1) + "\n")
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
    rounds = record["rounds"]
    kind = f" ({record['capability']})" if record["capability"] else ""
    lines = [
        f"## {record['device']}{kind}, {record['threads']} thread(s), torch {record['torch']}",
        "",
        f"{len(rounds)} rounds; load average at the end {record['load']:.1f}.",
        "",
        "| variant | images/s | times the plain loop | GFLOP/s | of matrix peak | peak memory |",
        "|---|---|---|---|---|---|",
    ]
    for variant in rounds[0]:
        rates = [BATCH / row[variant]["seconds"] for row in rounds]
        ratios = [row["plain"]["seconds"] / row[variant]["seconds"] for row in rounds]
        gflops = statistics.median(rates) * GFLOP_PER_IMAGE
        peak = (record["peak_gflops"] or {}).get("bf16" if variant == "bf16" else "fp32")
        share = f"{gflops / peak:.0%}" if peak else "–"
        memory = max(row[variant]["peak_bytes"] for row in rounds) / 1e9
        lines.append(
            f"| {LABELS[variant]} | {_spread(rates, 1)} | {_spread(ratios, 2)} | {gflops:.0f} "
            f"| {share} | {memory:.2f} GB |"
        )
    return [*lines, ""]


def _spread(values: list[float], digits: int) -> str:
    middle = statistics.median(values)
    return " – ".join(f"{value:.{digits}f}" for value in (min(values), middle, max(values)))


if __name__ == "__main__":
    main()
