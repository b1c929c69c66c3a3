"""The state of the fusion: complete, resumable, on the device, and never waited for."""

import copy
import io
import pickle
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_avg_fn, get_ema_multi_avg_fn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

from dmf.fusion import WEIGHTINGS, DynamicMemoryFusion
from dmf.losses import LOSSES, SegmentationLosses

# Options that exercise all branches of a step.
VARIANTS = [
    *[(weighting, {}) for weighting in WEIGHTINGS],
    ("variance", {"smoothing": 0.9, "detach": False}),
    ("bayesian", {"prior_update": "fixed", "median": "released"}),
]


NAMES = ["data", "boundary", "initial"]
ORDER = [2, 0, 1]  # of the names in a permuted fusion; not its own inverse
PER_LOSS = ("coefficients", "history", "log_prior", "loss_mean", "ratio_mean", "ratio_deviations",
            "random_key")  # fmt: skip


def make(weighting: str, options: dict[str, Any], names: list[str] = NAMES) -> DynamicMemoryFusion:
    return DynamicMemoryFusion(names, weighting, warmup=6, window=15, step_batches=4, **options)


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


def equal(a: DynamicMemoryFusion, b: DynamicMemoryFusion) -> bool:
    return all(torch.equal(x, b.state_dict()[name]) for name, x in a.state_dict().items())


@pytest.mark.parametrize(("weighting", "options"), VARIANTS)
def test_a_state_in_another_order_of_the_names_goes_to_the_same_losses(
    weighting: str, options: dict[str, Any]
) -> None:
    values = losses(50)
    straight = make(weighting, options)
    run(straight, values[:25])
    permuted = make(weighting, options | {"seed": 99}, [NAMES[i] for i in ORDER])
    permuted.load_state_dict(straight.state_dict())
    for name, saved in straight.named_buffers():
        order = {3: ORDER, 4: [*ORDER, 3]}[len(saved)] if name in PER_LOSS else ...
        assert torch.equal(getattr(permuted, name), saved[order]), name
    # In the first order again, inside another module, nothing has changed.
    outer = nn.ModuleDict({"fusion": make(weighting, options | {"seed": 99})})
    outer.load_state_dict(nn.ModuleDict({"fusion": permuted}).state_dict())
    for row in values[25:]:
        total = straight(row[:3], row[3])
        again = outer["fusion"](row[:3], row[3])
        torch.testing.assert_close(again, total, rtol=0, atol=0, equal_nan=True)
        # The same by name, but sums over the losses are rounded in another order.
        named = permuted({NAMES[i]: row[i] for i in ORDER}, row[3])
        torch.testing.assert_close(named, total, rtol=1e-5, atol=0, equal_nan=True)
        torch.testing.assert_close(permuted.weights, straight.weights[ORDER], rtol=1e-5, atol=1e-7)
    assert equal(outer["fusion"], straight)


def test_a_state_keeps_its_place_in_memory() -> None:
    """A captured graph and an engine hold on to the buffers."""
    saved, fusion = make("mad", {}), make("mad", {}, [NAMES[i] for i in ORDER])
    run(saved, losses(20))
    before = {name: buffer.data_ptr() for name, buffer in fusion.named_buffers()}
    fusion.load_state_dict(saved.state_dict())
    assert {name: buffer.data_ptr() for name, buffer in fusion.named_buffers()} == before
    # Assigned instead of copied, the loaded tensors are left as they are.
    state = saved.state_dict()
    kept = copy.deepcopy(state)
    fusion.load_state_dict(state, assign=True)
    assert all(torch.equal(state[name], kept[name]) for name in kept)
    assert torch.equal(fusion.history, saved.history[ORDER])


@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_a_state_of_other_losses_or_weighting_is_refused(weighting: str) -> None:
    fusion = make(weighting, {})
    run(fusion, losses(20))
    before = copy.deepcopy(fusion)
    kinds = [kind for kind in WEIGHTINGS if kind != weighting]
    states = [make(weighting, {}, ["data", "boundary", "final"]), *(make(k, {}) for k in kinds)]
    for state in states:
        for strict in (True, False):
            with pytest.raises(ValueError, match="build it as the saved one"):
                fusion.load_state_dict(state.state_dict(), strict=strict)
        assert equal(fusion, before)


@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_a_state_without_names_is_taken_in_the_given_order(weighting: str) -> None:
    old = make(weighting, {})
    run(old, losses(20))
    state = dict(old.named_buffers())
    fusion = make(weighting, {}, ["x", "y", "z"])
    fusion.load_state_dict(state)
    assert torch.equal(fusion(torch.ones(3)), old(torch.ones(3)))


@pytest.mark.parametrize(("weighting", "options"), VARIANTS)
def test_copies_of_every_kind_continue_to_the_same_bits(
    weighting: str, options: dict[str, Any], tmp_path: Path
) -> None:
    fusion = make(weighting, options)
    run(fusion, losses(20))
    file = tmp_path / "fusion.safetensors"
    safetensors.torch.save_file(fusion.state_dict(), file)
    loaded = make(weighting, options)
    loaded.load_state_dict(safetensors.torch.load_file(file))
    with torch.device("meta"):
        emptied = make(weighting, options)
    assert emptied.weights.is_meta
    emptied = emptied.to_empty(device="cpu")
    emptied.load_state_dict(fusion.state_dict())
    copies = [copy.deepcopy(fusion), pickle.loads(pickle.dumps(fusion)), loaded, emptied]
    expected = torch.stack(run(fusion, losses(50)))
    for other in copies:
        assert torch.equal(torch.stack(run(other, losses(50))).nan_to_num(), expected.nan_to_num())
        assert equal(other, fusion)


@pytest.mark.parametrize("average", [{}, {"avg_fn": get_ema_avg_fn(0.9)},
                                     {"multi_avg_fn": get_ema_multi_avg_fn(0.9)}])  # fmt: skip
@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_an_average_over_buffers_has_the_average_weights(
    weighting: str, average: dict[str, Any]
) -> None:
    fusion = make(weighting, {})
    averaged = AveragedModel(fusion, use_buffers=True, **average)
    weights = []
    for row in losses(20):
        fusion(row[:3], row[3])
        averaged.update_parameters(fusion)
        weights.append(fusion.weights.clone())
    expected = weights[0]
    for new in weights[1:]:
        expected = 0.9 * expected + 0.1 * new
    expected = expected if average else torch.stack(weights).mean(0)
    torch.testing.assert_close(averaged.module.weights, expected)
    values = torch.tensor([1.0, 10.0, 100.0])
    torch.testing.assert_close(averaged.eval()(values), (expected * values).sum())


def test_distributed_data_parallel(tmp_path: Path) -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(()))
            self.fusion = make("variance", {})

        def forward(self, row: Tensor) -> Tensor:
            total: Tensor = self.fusion(self.scale * row[:3], self.scale * row[3])
            return total

    store = torch.distributed.FileStore(str(tmp_path / "store"), 1)
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        alone, parallel = Model(), nn.parallel.DistributedDataParallel(Model())
        for row in losses(7):
            parallel(row).backward()
            alone(row).backward()
        assert equal(parallel.module.fusion, alone.fusion)
        assert torch.equal(parallel.module.scale.grad, alone.scale.grad)
        assert alone.fusion.recorded == 7
    finally:
        torch.distributed.destroy_process_group()


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
    + [(*variant, "inductor") for variant in (("random", {}), VARIANTS[7])],
)
@pytest.mark.slow
def test_compiles_without_graph_breaks(
    weighting: str, options: dict[str, Any], backend: str
) -> None:
    """Gradients too: the compiler must not recompute weights from state that has moved on."""
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
@pytest.mark.slow
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
            fusion([base[0].detach(), 0.5, 2], auxiliary=1.0)
            assert fusion.events.keys()


@pytest.mark.parametrize("fused_inside", [False, True])
def test_activation_checkpointing_counts_a_step_twice_only_with_the_fusion_inside(
    fused_inside: bool,
) -> None:
    fusion = make("variance", {})
    parameter = torch.ones(3, requires_grad=True)
    for row in losses(5)[:, :3]:

        def terms(values: Tensor, row: Tensor = row) -> Tensor:
            result = (values * row).square()
            return fusion(result) if fused_inside else result

        result = checkpoint(terms, parameter, use_reentrant=False)
        (result if fused_inside else fusion(result)).backward()
    assert fusion.step == (10 if fused_inside else 5)


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
