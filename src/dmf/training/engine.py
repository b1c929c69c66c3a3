"""The training step and everything it changes.

The data set lives on the device as one tensor and batches are gathered by index; nothing is read
back from the device within an epoch. On CUDA the whole step (forward, losses, fusion, backward,
optimiser) is captured in a graph, one for each batch length, so that the short last batch is kept.

Determinism: the initial weights and the batch orders follow from the seed alone and are drawn on
the CPU; algorithms are the deterministic ones. The same seed gives the same bits on the same
machine with the same number of threads.
"""

import ctypes
import hashlib
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from dmf.errors import DmfError
from dmf.fusion import DynamicMemoryFusion
from dmf.losses import SegmentationLosses
from dmf.metrics import SegmentationMetrics
from dmf.study import RunParameters
from dmf.unet import UNet

Indices = npt.NDArray[np.int64]


@dataclass(frozen=True)
class EpochRecord:
    """What happened in one epoch: a row per batch, in the order of ``columns``."""

    columns: tuple[str, ...]
    values: npt.NDArray[np.float64]

    def means(self) -> dict[str, float]:
        """Return the mean over the batches of every column."""
        return dict(zip(self.columns, self.values.mean(axis=0).tolist(), strict=True))

    def first_divergence(self) -> tuple[int, str] | None:
        """Return the batch (from 1) and the column of the first value that is not finite.

        Only the total decides, for it holds every term that has a gradient; the column named is
        the loss behind it where one can be found.
        """
        broken = ~np.isfinite(self.values)
        batches = np.flatnonzero(broken[:, self.columns.index("total")])
        if not len(batches):
            return None
        batch = int(batches[0])
        culprits = [
            name.removeprefix("loss_")
            for name, bad in zip(self.columns, broken[batch], strict=True)
            if bad and name.startswith("loss_")
        ]
        return batch + 1, culprits[0] if culprits else "total"


def configure(device: torch.device, threads: int, precision: str) -> None:
    """Set what torch and the allocator keep per process: threads, determinism, precision.

    Call it once, before the first tensor. `CUBLAS_WORKSPACE_CONFIG` must be in the environment
    before CUDA starts; the command line sees to it.
    """
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(True)
    # Filling fresh memory would only help to find reads of it, and costs a pass over every tensor.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
    torch.backends.cudnn.allow_tf32 = precision == "tf32"
    if device.type == "cpu":
        _keep_freed_memory()


def _keep_freed_memory() -> None:
    """Stop glibc from returning activations to the kernel after every step.

    By default each large tensor is mapped and unmapped again, and its pages zeroed by the kernel,
    on every step. Elsewhere than on glibc this does nothing.
    """
    if not sys.platform.startswith("linux"):
        return
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return
    trim_threshold, top_pad, mmap_max = -1, -2, -4
    mallopt(mmap_max, 0)
    mallopt(trim_threshold, 2**31 - 1)
    mallopt(top_pad, 2**26)


def resolve_precision(precision: str, device: torch.device) -> str:
    """Return fp32, tf32 or bf16 for ``auto`` and for what the device can do.

    bf16 is chosen where the hardware multiplies it natively: it is emulated elsewhere, slower than
    fp32. Raises DmfError for tf32 without CUDA.
    """
    if precision == "tf32" and device.type != "cuda":
        raise DmfError("training.precision = 'tf32' needs a CUDA device; use fp32, bf16 or auto")
    if precision != "auto":
        return precision
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported() else "fp32"
    cpu: Any = torch.cpu
    return "bf16" if cpu._is_avx512_bf16_supported() or cpu._is_amx_tile_supported() else "fp32"


def batch_order(seed: int, epoch: int, images: int) -> Indices:
    """Return the order in which epoch ``epoch`` (from 1) visits the images, a permutation.

    It follows from the arguments alone, so that a resumed run needs no generator's state.
    """
    return np.random.default_rng([seed, epoch]).permutation(images)


def hash_tensors(tensors: dict[str, Tensor]) -> str:
    """Return the SHA-256 of named tensors: names, shapes and bytes."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        values = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {values.dtype} {tuple(values.shape)}\n".encode())
        digest.update(values.numpy().tobytes())
    return digest.hexdigest()


class Engine:
    """Network, losses, fusion and optimiser of one run, on one device.

    Args:
        parameters: the run's parameters.
        images: grey images, uint8 (N, H, W).
        masks: class indices, uint8 (N, H, W).
        classes: number of classes C.
        train: indices of the training images.
        seed: of the initial weights and the batch orders.
        device: where everything lives.
        precision: fp32, tf32 or bf16.
    """

    def __init__(
        self,
        parameters: RunParameters,
        images: npt.NDArray[np.uint8],
        masks: npt.NDArray[np.uint8],
        classes: int,
        train: Indices,
        *,
        seed: int,
        device: torch.device,
        precision: str,
    ) -> None:
        self.device = device
        self.classes = classes
        self.seed = seed
        self.batch_size = parameters.training.batch_size
        self.train = train
        self._autocast = precision == "bf16"
        self.images = torch.from_numpy(images).to(device)[:, None].float().div_(255)
        self.masks = torch.from_numpy(masks).to(device)

        generator = torch.Generator().manual_seed(seed)
        network = UNet(
            parameters.model.filters,
            classes=classes,
            momentum=parameters.model.batch_norm_momentum,
            generator=generator,
        )
        self.initial_weights = hash_tensors(dict(network.named_parameters()))
        # nn.Module.to takes a memory format; its type stubs do not know.
        self.network: UNet = network.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.losses = build_losses(parameters)
        self.fusion = build_fusion(parameters, seed).to(device)
        self.optimizer = torch.optim.Adam(
            self.network.parameters(),
            lr=parameters.training.learning_rate,
            eps=parameters.training.adam_epsilon,
            fused=True,
            capturable=device.type == "cuda",
        )
        for weight in self.network.parameters():
            # What Adam would create at its first step, made here so that all state has a place.
            self.optimizer.state[weight] = {
                "step": torch.zeros((), device=device),
                "exp_avg": torch.zeros_like(weight, memory_format=torch.preserve_format),
                "exp_avg_sq": torch.zeros_like(weight, memory_format=torch.preserve_format),
            }

        names = self.losses.base
        self.columns = (
            *(f"loss_{name}" for name in names),
            *(f"weight_{name}" for name in names),
            *(f"weighted_{name}" for name in names),
            *(("loss_auxiliary", "gamma", "weighted_auxiliary") if self.losses.auxiliary else ()),
            "total",
        )
        self.batches = -(-len(train) // self.batch_size)
        self._record = torch.zeros(self.batches, len(self.columns), device=device)
        self._position = torch.zeros(1, dtype=torch.int64, device=device)
        self._graphs: dict[int, tuple[torch.cuda.CUDAGraph, Tensor]] = {}
        if device.type == "cuda":
            self._capture()

    @property
    def position(self) -> int:
        """How many batches of the current epoch are done."""
        return int(self._position.item())

    @property
    def events(self) -> int:
        """How many degenerate or non-finite events the fusion has met so far."""
        return sum(int(count.item()) for count in self.fusion.events.values())

    def run_epoch(self, epoch: int, stop: Callable[[], bool] = lambda: False) -> EpochRecord | None:
        """Train for epoch ``epoch`` (from 1), from where the state stands within it.

        Returns None if ``stop`` asked to leave before the last batch; the state then says where.
        """
        order = self.train[batch_order(self.seed, epoch, len(self.train))]
        on_device = torch.from_numpy(order).to(self.device)
        self.network.train()
        self.fusion.train()
        for batch in range(self.position, self.batches):
            if stop():
                return None
            indices = on_device[batch * self.batch_size : (batch + 1) * self.batch_size]
            if self._graphs:
                graph, buffer = self._graphs[len(indices)]
                buffer.copy_(indices)
                graph.replay()
            else:
                self._step(indices)
        values = self._record.double().cpu().numpy()
        self._position.zero_()
        return EpochRecord(self.columns, values)

    def evaluate(self, indices: Indices) -> dict[str, float]:
        """Return every metric on the images at ``indices``."""
        metrics = SegmentationMetrics(self.classes)
        for batch, logits in self._logits(indices):
            metrics.update(logits.argmax(1), self.masks[batch])
        return metrics.compute(self.batch_size)

    def weights(self) -> dict[str, Tensor]:
        """Return a copy of the network's weights and running statistics, on the CPU."""
        return {name: _copied(value) for name, value in self.network.state_dict().items()}

    def load_weights(self, weights: dict[str, Tensor]) -> None:
        """Put weights from :meth:`weights` back in place."""
        self.network.load_state_dict(weights)

    def state(self) -> dict[str, Tensor]:
        """Return a copy of all that a later step depends on, on the CPU."""
        return {name: _copied(value) for name, value in self._places()}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Put a state from :meth:`state` back, in place, so that captured graphs see it."""
        places = dict(self._places())
        if set(places) != set(state):
            raise ValueError("the state is of another network, fusion or optimiser")
        with torch.no_grad():
            for name, place in places.items():
                place.copy_(state[name])

    def _places(self) -> Iterator[tuple[str, Tensor]]:
        for name, value in self.network.state_dict().items():
            yield f"network.{name}", value
        for name, value in self.fusion.state_dict().items():
            yield f"fusion.{name}", value
        for name, weight in self.network.named_parameters():
            for key, value in self.optimizer.state[weight].items():
                yield f"optimizer.{name}.{key}", value
        yield "record", self._record
        yield "position", self._position

    def _amp(self) -> AbstractContextManager[None]:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self._autocast)

    def _logits(self, indices: Indices) -> Iterator[tuple[Tensor, Tensor]]:
        self.network.eval()
        with torch.inference_mode(), self._amp():
            on_device = torch.from_numpy(indices).to(self.device)
            for start in range(0, len(indices), self.batch_size):
                batch = on_device[start : start + self.batch_size]
                yield batch, self.network(self.images[batch])

    def _step(self, indices: Tensor) -> None:
        with self._amp():
            logits = self.network(self.images[indices])
        base, auxiliary = self.losses(logits, self.masks[indices])
        total = self.fusion(base, auxiliary)
        self.optimizer.zero_grad(set_to_none=True)
        total.backward()
        self.optimizer.step()
        with torch.no_grad():
            row = [base, self.fusion.weights, self.fusion.weights * base]
            if auxiliary is not None:
                gamma = self.fusion.gamma
                row.append(torch.stack((auxiliary, gamma, gamma * auxiliary)))
            self._record.index_copy_(0, self._position, torch.cat([*row, total[None]])[None])
            self._position.add_(1)

    def _capture(self) -> None:
        """Capture the step as a CUDA graph for the full and for the short last batch."""
        before = self.state()
        self.network.train()
        short = len(self.train) % self.batch_size
        for length in {min(self.batch_size, len(self.train)), short} - {0}:
            buffer = torch.from_numpy(self.train[:length]).to(self.device)
            side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                for _ in range(3):  # lets cuDNN and cuBLAS allocate what must not be captured
                    self._position.zero_()
                    self._step(buffer)
            torch.cuda.current_stream().wait_stream(side)
            graph = torch.cuda.CUDAGraph()
            self._position.zero_()
            self.optimizer.zero_grad(set_to_none=True)
            with torch.cuda.graph(graph):
                self._step(buffer)
            self._graphs[length] = (graph, buffer)
        self.load_state(before)


def build_losses(parameters: RunParameters) -> SegmentationLosses:
    """Return the base and auxiliary losses a run asks for."""
    auxiliary = parameters.configuration.auxiliary
    options: dict[str, Any] = {}
    if parameters.tversky is not None:
        options |= {
            "tversky_alpha": parameters.tversky.alpha,
            "tversky_beta": parameters.tversky.beta,
        }
    if parameters.focal is not None:
        options |= {
            "focal_gamma": parameters.focal.gamma,
            "focal_alpha": parameters.focal.alpha,
            "focal_on": parameters.focal.applied_to,
        }
    return SegmentationLosses(
        parameters.base,
        None if auxiliary == "none" else auxiliary,
        kind=parameters.kind,
        reduction=parameters.reduction,
        **options,
    )


def build_fusion(parameters: RunParameters, seed: int) -> DynamicMemoryFusion:
    """Return the fusion a run asks for; ``seed`` serves the random weights alone."""
    options: dict[str, Any] = {}
    if parameters.auxiliary is not None:
        options |= parameters.auxiliary.model_dump()
    if parameters.fusion is not None:
        options |= parameters.fusion.model_dump()
        if not parameters.configuration.smoothed:
            options["smoothing"] = None
    return DynamicMemoryFusion(
        parameters.base, parameters.configuration.weighting, seed=seed, **options
    )


def _copied(value: Tensor) -> Tensor:
    # Contiguous, as safetensors wants it; a view of live memory must not leave.
    return value.detach().clone(memory_format=torch.contiguous_format).cpu()
