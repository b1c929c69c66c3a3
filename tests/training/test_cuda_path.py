"""The CUDA path without a GPU: fake CUDA tensors run a step, the evaluation and the state.

A fake tensor has a device, a type and strides but no values. Whatever reads a value on the host
(`.item()`, a branch, a Boolean index) or mixes devices raises here, as it would inside a captured
graph; transfers and operations that torch documents as not deterministic are noticed by name. What
happens inside a kernel does not show: memory, time, cuDNN's choices, waits hidden in C++.
"""

import ctypes
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode, unset_fake_temporarily
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from dmf.configurations import AUXILIARIES, EXTRA_WEIGHTINGS, PAPER_WEIGHTINGS
from dmf.fusion import DynamicMemoryFusion
from dmf.study import Study
from dmf.training import engine as module
from dmf.training.engine import Engine
from dmf.unet import UNet

pytestmark = pytest.mark.slow

CUDA = torch.device("cuda", 0)
IMAGES, SIDE, BATCH = 20, 32, 6
STUDY: dict[str, Any] = {
    "study": {"datasets": ["phantom"], "configurations": ["fixed"]},
    "datasets": {"phantom": {"kind": "phantom"}},
    "data": {"image_size": SIDE},
    "model": {"filters": [4, 8]},
    "training": {"batch_size": BATCH},
    "fusion": {"warmup": 3, "window": 5},
}
# Every weighting, every auxiliary loss, smoothing, and one loss alone.
WEIGHTINGS = (*PAPER_WEIGHTINGS, *EXTRA_WEIGHTINGS, "variance_ema")
CONFIGURATIONS = ("cross_entropy", *(f"{AUXILIARIES[i % 4]}-{w}" for i, w in enumerate(WEIGHTINGS)))
PROTOCOLS: dict[str, dict[str, Any]] = {
    "paper": {},
    "released": {"preset": "released"},
    "sgd": {"training": {"batch_size": BATCH, "optimizer": "sgd", "weight_decay": 1e-4}},
    "linear": {"training": {"batch_size": BATCH, "schedule": {"kind": "linear"}}},
    "turned": {"training": {"batch_size": BATCH, "augmentation": "flips_and_turns"}},
    "no skips": {"model": {"filters": [4, 8], "skip_connections": False}},
}
CASES = [
    *((name, "paper", "bf16") for name in CONFIGURATIONS),
    *((name, "paper", "fp32") for name in CONFIGURATIONS),
    *((name, "released", "bf16") for name in CONFIGURATIONS),
    *(("cb_dice-variance", protocol, "tf32") for protocol in PROTOCOLS),
]

# They wait for the device, or make a tensor whose shape depends on values: no capture takes them.
WAITING = {"aten::_local_scalar_dense", "aten::nonzero", "aten::masked_select", "aten::equal",
           "aten::is_nonzero", "aten::_unique2", "aten::unique_dim"}  # fmt: skip
# What raises on CUDA under use_deterministic_algorithms(True) in torch 2.13, by its documentation.
NOT_DETERMINISTIC = {
    "aten::avg_pool3d_backward", "aten::_adaptive_avg_pool2d_backward",
    "aten::_adaptive_avg_pool3d_backward", "aten::adaptive_max_pool2d_backward",
    "aten::fractional_max_pool2d_backward", "aten::fractional_max_pool3d_backward",
    "aten::max_unpool2d", "aten::max_unpool3d", "aten::upsample_linear1d_backward",
    "aten::upsample_bilinear2d_backward", "aten::upsample_bicubic2d_backward",
    "aten::upsample_trilinear3d_backward", "aten::reflection_pad1d_backward",
    "aten::reflection_pad2d_backward", "aten::reflection_pad3d_backward",
    "aten::nll_loss_forward", "aten::nll_loss2d_forward", "aten::_ctc_loss_backward",
    "aten::_embedding_bag_backward", "aten::put_", "aten::histc", "aten::bincount",
    "aten::median", "aten::nanmedian", "aten::kthvalue", "aten::grid_sampler_2d_backward",
    "aten::grid_sampler_3d_backward", "aten::cumsum", "aten::scatter_reduce",
}  # fmt: skip


class Watch(TorchDispatchMode):
    """Counts operations by name, and lists those that join two devices."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()
        self.transfers: list[str] = []

    def __torch_dispatch__(
        self, operation: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        result = operation(*args, **(kwargs or {}))
        name = operation._schema.name
        self.counts[name] += 1
        tensors = [t for t in tree_leaves((args, kwargs, result)) if isinstance(t, Tensor)]
        # A 0-dim tensor on the CPU is a number to a kernel, not a transfer, unless it is copied.
        copied = name in ("aten::copy_", "aten::_to_copy", "aten::to")
        if len({t.device.type for t in tensors if copied or t.dim() or t.is_cuda}) > 1:
            self.transfers.append(name)
        return result

    def check(self) -> None:
        assert not self.transfers
        assert not WAITING & set(self.counts)
        assert not NOT_DETERMINISTIC & set(self.counts)


def allow_fake_cuda() -> None:
    """Let a torch built without CUDA enter a device of that kind, by a guard that does nothing.

    One built with CUDA does so by itself (`torch._C._ensureCUDADeviceGuardSet`); without, it has no
    guard there at all, and borrows that of the meta device.
    """
    if torch.version.cuda is None:
        cuda, meta = 1, 14  # c10::DeviceType
        try:
            library = ctypes.CDLL(str(Path(torch.__file__).with_name("lib") / "libc10.so"))
            symbol = "_ZN3c104impl26device_guard_impl_registryE"
            guards = (ctypes.c_void_p * 16).in_dll(library, symbol)
        except (OSError, ValueError):
            pytest.skip("this build of torch cannot pretend to have CUDA")
        guards[cuda] = guards[cuda] or guards[meta]


def apply(self: nn.Module, change: Callable[[Tensor], Tensor], recurse: bool = True) -> nn.Module:
    """nn.Module._apply for fake parameters, which torch cannot swap in place."""
    for child in self.children():
        child._apply(change)
    for name, weight in self._parameters.items():
        if weight is not None:
            self._parameters[name] = nn.Parameter(change(weight.detach()), weight.requires_grad)
    for name, buffer in self._buffers.items():
        if buffer is not None:
            self._buffers[name] = change(buffer)
    return self


def backward(total: Tensor) -> None:
    """Give every parameter that a backward pass would reach a gradient, without the pass.

    Autograd asks the driver for a stream of the device; the pass itself runs on the meta device in
    `test_the_backward_pass_reads_no_value`.
    """
    seen, pending = set(), [total.grad_fn]
    while pending:
        node = pending.pop()
        if node is not None and node not in seen:
            seen.add(node)
            pending += [following for following, _ in node.next_functions]
            if hasattr(node, "variable"):
                node.variable.grad = torch.empty_like(node.variable)


def build_fusion(*arguments: Any) -> DynamicMemoryFusion:
    """As the engine's, on the CPU: the constructor checks numbers."""
    with unset_fake_temporarily():
        return BUILD_FUSION(*arguments)


def fused_kernel(*lists: list[Tensor], **options: Any) -> None:
    """A fused optimiser without a fake form; it reads lists of tensors, and a rate, on the device.

    Raises what the kernel would: its lists must be as long as each other and on one device.
    """
    assert {len(tensors) for tensors in lists if tensors} == {len(lists[0])}
    assert {tensor.device for tensors in lists for tensor in tensors} == {CUDA}
    rate = options["lr"]
    assert isinstance(rate, float) or (rate.device, rate.dtype) == (CUDA, torch.float32)


BUILD_FUSION = module.build_fusion
FUSED_ADAM = torch._fused_adam_


def fused_adam(*lists: list[Tensor], **options: Any) -> None:
    kernel = fused_kernel if isinstance(options["lr"], Tensor) else FUSED_ADAM
    kernel(*lists, **options)


@pytest.fixture
def fake_cuda(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    allow_fake_cuda()
    # Autocast would switch itself off, and the test would only ever see fp32.
    monkeypatch.setattr("torch.cuda.amp.common.amp_definitely_not_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda *_, **__: True)
    monkeypatch.setattr(nn.Module, "_apply", apply)
    monkeypatch.setattr(Tensor, "backward", backward)
    monkeypatch.setattr(module, "hash_tensors", lambda _: "")
    monkeypatch.setattr(module, "build_fusion", build_fusion)
    monkeypatch.setattr(Engine, "_capture", lambda _: None)
    monkeypatch.setattr(torch, "_fused_adam_", fused_adam)
    monkeypatch.setattr(torch, "_fused_sgd_", fused_kernel)
    with FakeTensorMode(allow_non_fake_inputs=True):
        yield


def make(configuration: str, precision: str = "bf16", **sections: Any) -> Engine:
    parameters = Study.from_mapping({**STUDY, **sections}).run_parameters(configuration)
    pictures = np.zeros((IMAGES, SIDE, SIDE), dtype=np.uint8)
    return Engine(
        parameters, pictures, pictures, 2, np.arange(15), seed=0, device=CUDA, precision=precision
    )


def layouts(engine: Engine) -> dict[str, tuple[Any, ...]]:
    return {n: (v.shape, v.stride(), v.dtype, v.device.type) for n, v in engine._places()}


def step(engine: Engine, length: int = BATCH) -> Watch:
    engine.network.train()
    indices = torch.empty(length, dtype=torch.int64, device=CUDA)
    augmented = engine.training.augmentation != "none"
    engine.optimizer.set_rate(0.5)  # before the step, as a captured one is told
    with Watch() as watch:
        engine._step(indices, torch.empty_like(indices) if augmented else None)
    return watch


@pytest.mark.parametrize(("configuration", "protocol", "precision"), CASES)
@pytest.mark.usefixtures("fake_cuda")
def test_a_step_reads_no_value_and_stays_on_the_device(
    configuration: str, protocol: str, precision: str
) -> None:
    engine = make(configuration, precision, **PROTOCOLS[protocol])
    before = layouts(engine)
    assert {device for *_, device in before.values()} == {"cuda"}
    for length in (BATCH, BATCH, 3):
        step(engine, length).check()
    assert layouts(engine) == before  # a captured graph knows addresses, not names
    for name, weight in engine.network.named_parameters():
        assert (weight.grad is not None) == weight.requires_grad, name


@pytest.mark.parametrize("protocol", ["paper", "released", "no skips"])
@pytest.mark.parametrize("configuration", CONFIGURATIONS)
def test_the_backward_pass_reads_no_value(configuration: str, protocol: str) -> None:
    parameters = Study.from_mapping({**STUDY, **PROTOCOLS[protocol]}).run_parameters(configuration)
    network = UNet(parameters.model.filters, skip_connections=parameters.model.skip_connections).to(
        "meta", memory_format=torch.channels_last
    )
    fusion = BUILD_FUSION(parameters, 0).to("meta")
    losses = module.build_losses(parameters)
    images = torch.empty(BATCH, 1, SIDE, SIDE, device="meta")
    truth = torch.empty(BATCH, SIDE, SIDE, dtype=torch.uint8, device="meta")
    total = fusion(*losses(network(images), truth))
    with Watch() as watch:
        total.backward()
    watch.check()


@pytest.mark.parametrize(
    ("precision", "dtype"), [("bf16", torch.bfloat16), ("fp32", torch.float32)]
)
@pytest.mark.usefixtures("fake_cuda")
def test_precision_is_that_of_the_convolutions(precision: str, dtype: torch.dtype) -> None:
    engine = make("fixed", precision)
    with engine._amp():
        assert engine.network(engine.images[:BATCH]).dtype == dtype


@pytest.mark.usefixtures("fake_cuda")
def test_evaluation_waits_once_and_a_state_comes_back() -> None:
    engine = make("cb_dice-bayesian")
    with Watch() as watch:
        counts = engine.confusion(np.arange(IMAGES)).counts
    assert counts.shape == (IMAGES, 2, 3)
    assert counts.device.type == "cuda"
    assert len(watch.transfers) == 1  # the indices
    assert not WAITING & set(watch.counts)

    state, before = engine.state(), layouts(engine)
    assert {value.device.type for value in state.values()} == {"cpu"}
    engine.load_state(state)
    engine.load_weights(engine.weights())
    assert layouts(engine) == before


@pytest.mark.parametrize(
    "mistake",
    [
        lambda x: x.sum().item(),
        lambda x: x if x.sum() > 0 else -x,
        lambda x: x[x > 0],
        lambda x: x + torch.ones(len(x)),
        lambda x: x + torch.tensor([1.0, 2.0, 3.0]).to(x.device),
        lambda x: x + torch.tensor(1.0, device=x.device),
        lambda x: x.median(0).values,
        lambda x: x.cumsum(0),
        lambda x: x.cpu(),
    ],
    ids=["item", "branch", "mask", "cpu tensor", "transfer", "constant", "median", "cumsum", "cpu"],
)
@pytest.mark.usefixtures("fake_cuda")
def test_a_mistake_is_noticed(mistake: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The net has no hole: each of these breaks a capture, or varies, on a GPU."""
    engine = make("cb_dice-variance")
    forward = DynamicMemoryFusion.forward

    def mistaken(self: DynamicMemoryFusion, losses: Tensor, auxiliary: Tensor) -> Tensor:
        mistake(losses)
        return forward(self, losses, auxiliary)

    monkeypatch.setattr(DynamicMemoryFusion, "forward", mistaken)
    with pytest.raises((RuntimeError, AssertionError)):
        step(engine).check()
