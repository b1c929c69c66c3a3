"""The training step and everything it changes.

The data set lives on the device as one tensor and batches are gathered by index; nothing is read
back from the device within an epoch. On CUDA the whole step (forward, losses, fusion, backward,
optimiser) is captured in a graph, one for each batch length, so that the short last batch is kept.

Determinism: the initial weights, the batch orders and the augmentation follow from the seed alone
and are drawn on the CPU; algorithms are the deterministic ones. The same seed gives the same bits
on the same machine with the same number of threads.
"""

import ctypes
import hashlib
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from dmf.errors import DmfError
from dmf.fusion import DynamicMemoryFusion
from dmf.losses import SegmentationLosses
from dmf.metrics import SegmentationMetrics
from dmf.study import RunParameters
from dmf.training import protocol
from dmf.training.optimizer import Optimizer
from dmf.training.protocol import Indices
from dmf.unet import UNet


@dataclass(frozen=True)
class EpochRecord:
    """What happened in one epoch: a row per batch, in the order of ``columns``.

    ``images`` holds the number of images of each batch.
    """

    columns: tuple[str, ...]
    values: npt.NDArray[np.float64]
    images: Indices

    def means(self) -> dict[str, float]:
        """Return the mean of every column over the epoch.

        Losses are means over the images, so that a short last batch counts by its size. Weights and
        gamma belong to steps, and every step counts alike; so do the losses as the fusion saw them,
        which come again as `batch_loss_*`.
        """
        over_steps = self.values.mean(axis=0)
        over_images = np.average(self.values, axis=0, weights=self.images)
        means, seen = {}, {}
        for name, by_step, by_image in zip(
            self.columns, over_steps.tolist(), over_images.tolist(), strict=True
        ):
            of_steps = name == "gamma" or name.startswith("weight_")
            means[name] = by_step if of_steps else by_image
            if name.startswith("loss_"):
                seen[f"batch_{name}"] = by_step
        return means | seen

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
    # As use_deterministic_algorithms(True), which imports the compiler as well: a second per job.
    torch.set_deterministic_debug_mode("error")
    # Filling fresh memory would only help to find reads of it, and costs a pass over every tensor.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True
    _allow_tf32(precision == "tf32")
    if device.type == "cpu":
        _keep_freed_memory()


def _allow_tf32(allowed: bool) -> None:
    torch.set_float32_matmul_precision("high" if allowed else "highest")
    torch.backends.cudnn.allow_tf32 = allowed


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
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    cpu: Any = torch.cpu
    return "bf16" if cpu._is_avx512_bf16_supported() or cpu._is_amx_tile_supported() else "fp32"


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
        seed: of the initial weights, the batch orders and the augmentation.
        device: where everything lives.
        precision: fp32, tf32 or bf16, of the training; scores are always taken in fp32.

    Attributes:
        batches: batches of a whole epoch.
        epochs: epochs of the training, the last of which `training.steps` may cut short.
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
        self.training = parameters.training
        self.batch_size = parameters.training.batch_size
        self.train = train
        self.lengths = protocol.batch_lengths(len(train), self.training)
        self.batches = len(self.lengths)
        self._steps = protocol.total_steps(self.batches, self.training)
        self.epochs = -(-self._steps // self.batches)
        self._precision = precision
        self.images = torch.from_numpy(images).to(device)[:, None].float().div_(255)
        self.masks = torch.from_numpy(masks).to(device)

        generator = torch.Generator().manual_seed(seed)
        network = UNet(
            parameters.model.filters,
            classes=classes,
            momentum=parameters.model.batch_norm_momentum,
            skip_connections=parameters.model.skip_connections,
            generator=generator,
        )
        self.initial_weights = hash_tensors(dict(network.named_parameters()))
        # nn.Module.to takes a memory format; its type stubs do not know.
        self.network: UNet = network.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.losses = build_losses(parameters)
        self.fusion = build_fusion(parameters, seed).to(device)
        self.optimizer = Optimizer(dict(self.network.named_parameters()), self.training, device)

        names = self.losses.base
        self.columns = (
            *(f"loss_{name}" for name in names),
            *(f"weight_{name}" for name in names),
            *(f"weighted_{name}" for name in names),
            *(("loss_auxiliary", "gamma", "weighted_auxiliary") if self.losses.auxiliary else ()),
            "total",
        )
        self._record = torch.zeros(self.batches, len(self.columns), device=device)
        self._position = torch.zeros(1, dtype=torch.int64, device=device)
        self._rows = torch.arange(self.batches, device=device)[:, None]
        self._graphs: dict[int, tuple[torch.cuda.CUDAGraph, Tensor, Tensor | None]] = {}
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

    def batches_of(self, epoch: int) -> int:
        """Return the number of batches of epoch ``epoch`` (from 1)."""
        cut = epoch == self.epochs
        return self._steps - (epoch - 1) * self.batches if cut else self.batches

    def run_epoch(self, epoch: int, stop: Callable[[], bool] = lambda: False) -> EpochRecord | None:
        """Train for epoch ``epoch`` (from 1), from where the state stands within it.

        Returns None if ``stop`` asked to leave before the last batch; the state then says where.
        """
        images = len(self.train)
        order = self.train[protocol.batch_order(self.seed, epoch, images)]
        batches = torch.split(torch.from_numpy(order).to(self.device), self.lengths)
        drawn = protocol.symmetries(self.seed, epoch, images, self.training)
        symmetries: tuple[Tensor | None, ...] = (None,) * self.batches
        if drawn is not None:
            symmetries = torch.split(torch.from_numpy(drawn).to(self.device), self.lengths)
        done = self.batches_of(epoch)
        self.network.train()
        self.fusion.train()
        for batch in range(self.position, done):
            if stop():
                return None
            step = (epoch - 1) * self.batches + batch
            self.optimizer.set_rate(
                protocol.learning_rate(step, self._steps, self.batches, self.training)
            )
            self._run_step(batches[batch], symmetries[batch])
        values = self._record[:done].double().cpu().numpy()
        self._position.zero_()
        return EpochRecord(self.columns, values, np.array(self.lengths[:done]))

    def evaluate(self, indices: Indices) -> dict[str, float]:
        """Return every metric on the images at ``indices``."""
        return self.confusion(indices).compute(self.batch_size)

    def confusion(self, indices: Indices) -> SegmentationMetrics:
        """Return the counts of the images at ``indices``, in their order.

        The network is in fp32 whatever the precision of the training, as `dmf predict` has it.
        """
        metrics = SegmentationMetrics(self.classes)
        self.network.eval()
        _allow_tf32(False)
        with torch.inference_mode():
            places = torch.from_numpy(indices).to(self.device)
            for batch in torch.split(places, self.batch_size):
                metrics.update(self.network(self.images[batch]).argmax(1), self.masks[batch])
        _allow_tf32(self._precision == "tf32")
        return metrics

    @contextmanager
    def recalibrated(self) -> Iterator[None]:
        """Give batch norm, inside the block, statistics that are averages over the training images.

        They come from one pass in batches of equal size, with the weights as they are: the running
        statistics of the training lag behind weights that still move.
        """
        norms = [module for module in self.network.modules() if isinstance(module, nn.BatchNorm2d)]
        before, momenta = self.weights(), [norm.momentum for norm in norms]
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # a plain average
        order = self.train[protocol.batch_order(self.seed, 0, len(self.train))]
        self.network.train()
        with torch.no_grad():
            for batch in np.array_split(order, self.batches):
                self.network(self.images[torch.from_numpy(batch).to(self.device)])
        try:
            yield
        finally:
            for norm, momentum in zip(norms, momenta, strict=True):
                norm.momentum = momentum
            self.load_weights(before)

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
        for name, value in self.fusion.named_buffers():
            yield f"fusion.{name}", value
        for name, value in self.optimizer.state():
            yield f"optimizer.{name}", value
        yield "record", self._record
        yield "position", self._position

    def _amp(self) -> AbstractContextManager[None]:
        enabled = self._precision == "bf16"
        return torch.autocast(self.device.type, torch.bfloat16, enabled=enabled)

    def _run_step(self, indices: Tensor, symmetry: Tensor | None) -> None:
        if not self._graphs:
            self._step(indices, symmetry)
            return
        graph, places, turns = self._graphs[len(indices)]
        places.copy_(indices)
        if turns is not None and symmetry is not None:
            turns.copy_(symmetry)
        graph.replay()

    def _step(self, indices: Tensor, symmetry: Tensor | None = None) -> None:
        images, masks = self.images[indices], self.masks[indices]
        if symmetry is not None:
            images, masks = protocol.turned(images, symmetry), protocol.turned(masks, symmetry)
        with self._amp():
            logits = self.network(images)
        base, auxiliary = self.losses(logits, masks)
        total = self.fusion(base, auxiliary)
        self.optimizer.zero_grad()
        total.backward()
        self.optimizer.step()
        with torch.no_grad():
            row = [base, self.fusion.weights, self.fusion.weights * base]
            if auxiliary is not None:
                gamma = self.fusion.gamma
                row.append(torch.stack((auxiliary, gamma, gamma * auxiliary)))
            # Not index_copy_: its deterministic form sorts the one index, in eleven kernels.
            here = self._rows == self._position
            self._record.copy_(torch.where(here, torch.cat([*row, total[None]]), self._record))
            self._position.add_(1)

    def _capture(self) -> None:
        """Capture the step as a CUDA graph for every length a batch has."""
        before = self.state()
        self.network.train()
        pool = None  # shared: the graphs never run at once, and leave nothing for each other in it
        for length in sorted(set(self.lengths), reverse=True):
            places = torch.from_numpy(self.train[:length]).to(self.device)
            turns = None if self.training.augmentation == "none" else torch.zeros_like(places)
            side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                for _ in range(3):  # lets cuDNN and cuBLAS allocate what must not be captured
                    self._position.zero_()
                    self._step(places, turns)
            torch.cuda.current_stream().wait_stream(side)
            graph = torch.cuda.CUDAGraph()
            self._position.zero_()
            self.optimizer.zero_grad()
            with torch.cuda.graph(graph, pool=pool):
                self._step(places, turns)
            pool = graph.pool()
            self._graphs[length] = (graph, places, turns)
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
    if parameters.fixed_weights is not None:
        options["fixed_weights"] = parameters.fixed_weights
    return DynamicMemoryFusion(
        parameters.base, parameters.configuration.weighting, seed=seed, **options
    )


def _copied(value: Tensor) -> Tensor:
    # Contiguous, as safetensors wants it; a view of live memory must not leave.
    return value.detach().clone(memory_format=torch.contiguous_format).cpu()
