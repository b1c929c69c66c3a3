"""The state of the fusion: complete, resumable, on the device, and never waited for."""

import copy
import io
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from dmf.fusion import WEIGHTINGS, DynamicMemoryFusion
from dmf.losses import LOSSES, SegmentationLosses

# Options that exercise all branches of a step.
VARIANTS = [
    *[(weighting, {}) for weighting in WEIGHTINGS],
    ("variance", {"smoothing": 0.9, "detach": False}),
    ("bayesian", {"prior_update": "fixed", "median": "released"}),
]


def make(weighting: str, options: dict[str, Any]) -> DynamicMemoryFusion:
    return DynamicMemoryFusion(3, weighting, warmup=6, window=15, step_batches=4, **options)


def losses(steps: int) -> Tensor:
    """Falling, noisy values of three losses and an auxiliary, with some that are not finite."""
    generator = torch.Generator().manual_seed(0)
    values = torch.rand(50, 4, generator=generator) + torch.linspace(2, 0, 50)[:, None]
    values[7, 1] = torch.nan
    values[20, 3] = torch.inf
    return values[:steps]


def run(fusion: DynamicMemoryFusion, values: Tensor) -> list[Tensor]:
    return [fusion(row[:3], row[3]) for row in values]


@pytest.mark.parametrize(("weighting", "options"), VARIANTS)
def test_saved_and_loaded_state_continues_bit_for_bit(
    weighting: str, options: dict[str, Any]
) -> None:
    values = losses(50)
    whole = make(weighting, options)
    totals = run(whole, values)

    for stop in (3, 8, 31):
        first = make(weighting, options)
        run(first, values[:stop])
        file = io.BytesIO()
        torch.save(first.state_dict(), file)
        file.seek(0)
        # The seed is part of the state too.
        second = make(weighting, options | {"seed": 99})
        second.load_state_dict(torch.load(file))
        for total, expected in zip(run(second, values[stop:]), totals[stop:], strict=True):
            torch.testing.assert_close(total, expected, rtol=0, atol=0, equal_nan=True)
        assert second.state_dict().keys() == whole.state_dict().keys()
        for name, tensor in second.state_dict().items():
            assert torch.equal(tensor, whole.state_dict()[name]), name


@pytest.mark.parametrize(("weighting", "options"), VARIANTS)
def test_evaluation_applies_the_last_weights_and_changes_nothing(
    weighting: str, options: dict[str, Any]
) -> None:
    fusion = make(weighting, options)
    assert fusion.eval()(torch.ones(3), torch.ones(())).item() == pytest.approx(6)
    fusion.train()
    run(fusion, losses(19))
    before = copy.deepcopy(fusion.state_dict())
    fusion.eval()
    row = torch.tensor([1.0, 10.0, 100.0])
    total = fusion(row, torch.tensor(3.0))
    assert total.item() == pytest.approx(((fusion.weights * row).sum() + 3 * fusion.gamma).item())
    for name, tensor in fusion.state_dict().items():
        assert torch.equal(tensor, before[name]), name


@pytest.mark.parametrize(
    ("weighting", "options", "backend"),
    [(*variant, "aot_eager_decomp_partition") for variant in VARIANTS]
    + [(*variant, "inductor") for variant in VARIANTS if variant[0] in ("variance", "random")],
)
def test_compiles_without_graph_breaks(
    weighting: str, options: dict[str, Any], backend: str
) -> None:
    """Gradients too: the compiler must not recompute weights from state that has moved on."""
    backend = "inductor" if (weighting, options) == VARIANTS[0] else "aot_eager"
    eager, fusion = make(weighting, options), make(weighting, options)
    torch._dynamo.reset()
    compiled = torch.compile(fusion, fullgraph=True, backend=backend)
    values = losses(40)
    for row in values:
        x, y = row.clone().requires_grad_(), row.clone().requires_grad_()
        total, expected = compiled(x[:3], x[3]), eager(y[:3], y[3])
        torch.testing.assert_close(total, expected, equal_nan=True)
        total.backward()
        expected.backward()
        torch.testing.assert_close(x.grad, y.grad, equal_nan=True)
    for name, tensor in fusion.state_dict().items():
        torch.testing.assert_close(tensor, eager.state_dict()[name])
    torch._dynamo.reset()


class OnlyOn(TorchDispatchMode):
    """Refuses every operation with a tensor elsewhere, and every one that reads a value."""

    def __init__(self, device: str) -> None:
        super().__init__()
        self.device = device

    def __torch_dispatch__(
        self, operation: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        assert operation is not torch.ops.aten._local_scalar_dense.default, "waits for the device"
        result = operation(*args, **(kwargs or {}))
        for tensor in torch.utils._pytree.tree_leaves((args, kwargs, result)):
            if isinstance(tensor, Tensor):
                assert tensor.device.type == self.device, f"{operation} leaves the device"
        return result


@pytest.mark.parametrize(("weighting", "options"), VARIANTS)
def test_a_step_never_leaves_the_device(weighting: str, options: dict[str, Any]) -> None:
    """On the meta device, where no value exists that could be read or branched on."""
    fusion = make(weighting, options).to("meta")
    logits = torch.empty(2, 2, 8, 8, device="meta", requires_grad=True)
    ground_truth = torch.empty(2, 8, 8, device="meta", dtype=torch.uint8)
    for kind, auxiliary in (("soft", "cb_dice"), ("hard", "focal")):
        segmentation = SegmentationLosses(LOSSES[:3], auxiliary, kind=kind, focal_on="precision")
        with OnlyOn("meta"):
            fusion(*segmentation(logits, ground_truth)).backward()
            base = list(segmentation(logits, ground_truth)[0].unbind())
            fusion(base).backward()
            assert fusion.events.keys()


def test_two_steps_before_one_backward_pass() -> None:
    """Accumulated gradients: the state moves on, what autograd has kept does not."""
    for weighting, options in VARIANTS:
        fusion = make(weighting, options)
        run(fusion, losses(7))
        parameters = torch.ones(3, requires_grad=True)
        total = fusion(parameters) + fusion(2 * parameters)
        fusion.eval()
        total = total + fusion(parameters)
        fusion.train()
        fusion(parameters.detach())
        total.backward()
        assert parameters.grad is not None
        assert parameters.grad.isfinite().all()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize(("weighting", "options"), VARIANTS)
def test_cuda_graph_replay_equals_eager(weighting: str, options: dict[str, Any]) -> None:
    """300 replayed steps of losses, fusion, backward pass and optimiser."""
    steps = 300
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(steps, 4, 2, 16, 16, generator=generator).cuda()
    truths = torch.randint(0, 2, (steps, 4, 16, 16), generator=generator).cuda()
    segmentation = SegmentationLosses(auxiliary="tversky")

    def build() -> tuple[torch.nn.Module, torch.optim.Optimizer, DynamicMemoryFusion]:
        torch.manual_seed(2)
        model = torch.nn.Conv2d(2, 2, 1).cuda()
        optimiser = torch.optim.Adam(model.parameters(), lr=1e-2, capturable=True)
        return model, optimiser, make(weighting, options).cuda()

    def step(parts: Any, image: Tensor, truth: Tensor) -> Tensor:
        model, optimiser, fusion = parts
        optimiser.zero_grad(set_to_none=False)
        total: Tensor = fusion(*segmentation(model(image), truth))
        total.backward()
        optimiser.step()
        return total.detach()

    eager = build()
    trace = []
    for image, truth in zip(images, truths, strict=True):
        total = step(eager, image, truth)
        trace.append((total.clone(), eager[2].weights.clone(), eager[2].gamma.clone()))

    captured = build()
    image, truth = images[0].clone(), truths[0].clone()
    warm = copy.deepcopy([part.state_dict() for part in captured])
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            step(captured, image, truth)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        static_total = step(captured, image, truth)
    model, optimiser, fusion = captured
    model.load_state_dict(warm[0])
    fusion.load_state_dict(warm[2])
    for state in optimiser.state.values():
        for tensor in state.values():
            tensor.zero_()

    moved = False
    for index in range(steps):
        image.copy_(images[index])
        truth.copy_(truths[index])
        graph.replay()
        total, weights, gamma = trace[index]
        torch.testing.assert_close(static_total, total)
        torch.testing.assert_close(fusion.weights, weights)
        torch.testing.assert_close(fusion.gamma, gamma)
        moved = moved or not torch.equal(fusion.weights, trace[0][1])
    assert moved or weighting == "fixed"
