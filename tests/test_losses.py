"""The losses against MONAI and torch, and the properties their mathematics has."""

import copy
from functools import partial

import pytest
import torch
import torch.nn.functional as torch_losses
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from dmf import losses
from dmf.losses import LOSSES, SegmentationLosses, class_balance

FUNCTIONS = {
    "cross_entropy": losses.cross_entropy,
    "iou": losses.mean_iou,
    "dice": losses.mean_dice,
    "focal": losses.focal,
    "tversky": losses.tversky,
    "cb_dice": losses.cb_dice,
}
REGION = ("iou", "dice", "tversky", "cb_dice")
REDUCTIONS = ("batch", "image")


def example(
    seed: int = 0, images: int = 4, classes: int = 2, spatial: tuple[int, ...] = (9, 7)
) -> tuple[Tensor, Tensor]:
    """Float64 logits and indices in which every image has every class."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(images, classes, *spatial, generator=generator, dtype=torch.float64)
    ground_truth = torch.randint(0, classes, (images, *spatial), generator=generator)
    ground_truth.view(images, -1)[:, :classes] = torch.arange(classes)
    return 2 * logits, ground_truth


def one_hot(ground_truth: Tensor, classes: int) -> Tensor:
    return torch_losses.one_hot(ground_truth, classes).movedim(-1, 1).double()


def monai_value(name: str, logits: Tensor, ground_truth: Tensor, reduction: str) -> Tensor:
    from monai.losses import DiceLoss, FocalLoss, TverskyLoss  # which takes seconds

    classes = logits.shape[1]
    probability, truth = logits.softmax(1), one_hot(ground_truth, classes)
    exact = {"batch": reduction == "batch", "smooth_nr": 0.0, "smooth_dr": 0.0}
    if name == "dice":
        return DiceLoss(**exact)(probability, truth)
    if name == "iou":
        return DiceLoss(jaccard=True, **exact)(probability, truth)
    if name == "tversky":
        return TverskyLoss(alpha=0.7, beta=0.3, **exact)(probability, truth)
    if name == "focal":
        # MONAI's alpha would mean 1 - alpha for the background, so the factor stays outside.
        return 0.25 * classes * FocalLoss(gamma=2, use_softmax=True)(logits, truth)
    # CB-Dice: MONAI's Dice of each class, weighted here.
    size = len(logits) if reduction == "batch" else 1
    values = []
    for start in range(0, len(logits), size):
        group = slice(start, start + size)
        frequency = truth[group].movedim(1, 0).flatten(1).mean(1)
        weights = (1 / frequency) / (1 / frequency).sum()
        exact["batch"] = True
        each = DiceLoss(reduction="none", **exact)(probability[group], truth[group])
        values.append((weights * each.flatten()).sum())
    return torch.stack(values).mean()


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize(("classes", "spatial"), [(2, (9, 7)), (4, (9, 7)), (3, (5, 4, 6))])
@pytest.mark.parametrize("name", ["iou", "dice", "tversky", "focal", "cb_dice"])
@pytest.mark.slow
def test_equals_monai(name: str, classes: int, spatial: tuple[int, ...], reduction: str) -> None:
    logits, ground_truth = example(1, classes=classes, spatial=spatial)
    value = FUNCTIONS[name](logits, ground_truth, reduction=reduction)
    expected = monai_value(name, logits, ground_truth, reduction)
    # MONAI computes the focal loss in float32.
    tolerance = 1e-6 if name == "focal" else 1e-12
    assert value.item() == pytest.approx(expected.item(), abs=tolerance)


@pytest.mark.parametrize("classes", [2, 5])
def test_cross_entropy_equals_torch(classes: int) -> None:
    logits, ground_truth = example(2, classes=classes)
    expected = torch_losses.cross_entropy(logits, ground_truth)
    for reduction in REDUCTIONS:
        value = losses.cross_entropy(logits, ground_truth, reduction=reduction)
        assert value.item() == pytest.approx(expected.item(), abs=1e-12)


def test_focal_without_focus_is_cross_entropy() -> None:
    logits, ground_truth = example()
    value = losses.focal(logits, ground_truth, gamma=0.0, alpha=1.0)
    torch.testing.assert_close(value, losses.cross_entropy(logits, ground_truth))


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("name", LOSSES)
def test_gradcheck(name: str, reduction: str) -> None:
    logits, ground_truth = example(3, images=2, classes=3, spatial=(2, 2))
    function = partial(FUNCTIONS[name], reduction=reduction)
    assert torch.autograd.gradcheck(
        lambda x: function(x, ground_truth), logits.requires_grad_(), atol=1e-7
    )


@settings(deadline=None, max_examples=25)
@given(
    seed=st.integers(0, 2**31),
    classes=st.integers(2, 5),
    images=st.integers(1, 4),
    reduction=st.sampled_from(REDUCTIONS),
    scale=st.sampled_from([0.1, 3.0, 30.0]),
)
def test_mathematics(seed: int, classes: int, images: int, reduction: str, scale: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = scale * torch.randn(images, classes, 6, 5, generator=generator, dtype=torch.float64)
    # Any labels: classes may be absent.
    ground_truth = torch.randint(0, classes, (images, 6, 5), generator=generator)
    if seed % 3 == 0:
        ground_truth.clamp_(max=seed % classes)
    value = {
        name: function(logits, ground_truth, reduction=reduction)
        for name, function in FUNCTIONS.items()
    }
    for name in REGION:
        assert -1e-12 <= value[name] <= 1 + 1e-12
    assert 0 <= value["focal"] <= 0.25 * value["cross_entropy"] + 1e-12
    assert value["dice"] <= value["iou"] + 1e-12

    # The Tversky index contains Dice and IoU.
    tversky = partial(losses.tversky, logits, ground_truth, reduction=reduction)
    torch.testing.assert_close(tversky(alpha=0.5, beta=0.5), value["dice"])
    torch.testing.assert_close(tversky(alpha=1.0, beta=1.0), value["iou"])

    # The names of the classes mean nothing.
    order = torch.randperm(classes, generator=generator)
    renamed = torch.argsort(order)[ground_truth]
    for name, function in FUNCTIONS.items():
        again = function(logits[:, order], renamed, reduction=reduction)
        torch.testing.assert_close(again, value[name])

    # One shared pass gives what each function gives.
    shared, auxiliary = SegmentationLosses(LOSSES, "tversky", reduction=reduction)(
        logits, ground_truth
    )
    torch.testing.assert_close(shared, torch.stack([value[name] for name in LOSSES]))
    torch.testing.assert_close(auxiliary, value["tversky"])


def test_iou_is_dice_over_two_minus_dice_for_each_class() -> None:
    # A second image with the classes exchanged makes both classes equal, so the mean is each class.
    logits, ground_truth = example(4, images=1)
    logits = torch.cat((logits, logits.flip(1)))
    ground_truth = torch.cat((ground_truth, 1 - ground_truth))
    dice = 1 - losses.mean_dice(logits, ground_truth)
    iou = 1 - losses.mean_iou(logits, ground_truth)
    torch.testing.assert_close(iou, dice / (2 - dice))


@pytest.mark.parametrize("kind", ["soft", "hard"])
def test_memory_format_does_not_matter(kind: str) -> None:
    logits, ground_truth = example(7)
    outcomes = []
    for memory_format in (torch.contiguous_format, torch.channels_last):
        x = logits.float().contiguous(memory_format=memory_format).requires_grad_()
        value, _ = SegmentationLosses(LOSSES, kind=kind)(x, ground_truth)
        value.sum().backward()
        outcomes.append((value.detach(), x.grad))
    assert torch.equal(outcomes[0][0], outcomes[1][0])
    torch.testing.assert_close(outcomes[0][1], outcomes[1][1])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_logits_are_computed_in_float32(dtype: torch.dtype) -> None:
    logits, ground_truth = example(8, spatial=(64, 64))
    low = logits.to(dtype)
    all_losses = SegmentationLosses(LOSSES)
    expected, _ = all_losses(low.float(), ground_truth)
    value, _ = all_losses(low, ground_truth)
    with torch.autocast("cpu", torch.bfloat16):
        inside, _ = all_losses(low, ground_truth)
    assert value.dtype == torch.float32
    assert torch.equal(value, expected)
    assert torch.equal(inside, expected)
    reference, _ = all_losses(low.double(), ground_truth)
    torch.testing.assert_close(value.double(), reference, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int32, torch.int64])
def test_ground_truth_of_any_integer_type(dtype: torch.dtype) -> None:
    logits, ground_truth = example()
    value, _ = SegmentationLosses(LOSSES)(logits, ground_truth.to(dtype))
    expected, _ = SegmentationLosses(LOSSES)(logits, ground_truth)
    assert torch.equal(value, expected)


def test_class_neither_present_nor_predicted_scores_one() -> None:
    ground_truth = torch.zeros(1, 4, 4, dtype=torch.int64)
    logits = torch.zeros(1, 2, 4, 4)
    logits[:, 0] = 1.0
    value, _ = SegmentationLosses(REGION, kind="hard")(logits, ground_truth)
    assert not value.any()


def test_absent_class_that_is_predicted_scores_zero_and_takes_the_balance() -> None:
    ground_truth = torch.zeros(1, 4, 4, dtype=torch.int64)
    logits = torch.zeros(1, 2, 4, 4)
    logits[:, 0] = 1.0
    logits[:, 1, 0] = 2.0  # one row of four pixels is wrong
    value, _ = SegmentationLosses(REGION, kind="hard")(logits, ground_truth)
    iou, dice, tversky, cb_dice = value.tolist()
    assert iou == pytest.approx(1 - (12 / 16 + 0) / 2)
    assert dice == pytest.approx(1 - (24 / 28 + 0) / 2)
    assert tversky == pytest.approx(1 - (12 / (12 + 0.3 * 4) + 0) / 2)
    assert cb_dice == pytest.approx(1)


def test_class_balance_is_the_limit_of_equation_22() -> None:
    for absent in (1e-3, 1e-6, 1e-9):
        near = class_balance(torch.tensor([absent, 10.0, 30.0], dtype=torch.float64))
        at = class_balance(torch.tensor([0.0, 10.0, 30.0], dtype=torch.float64))
        assert (near - at).abs().max() < absent
    two = class_balance(torch.tensor([25.0, 75.0]))
    torch.testing.assert_close(two, torch.tensor([0.75, 0.25]))  # one minus the ratio, for C = 2
    torch.testing.assert_close(
        class_balance(torch.tensor([0.0, 5.0, 0.0])), torch.tensor([0.5, 0.0, 0.5])
    )


@pytest.mark.parametrize(
    ("value", "dtype"),
    [(255, torch.uint8), (2, torch.int64), (-1, torch.int8), (-100, torch.int64)],
)
def test_ground_truth_outside_the_classes_is_refused_with_its_value(
    value: int, dtype: torch.dtype
) -> None:
    logits, ground_truth = example()
    ground_truth = ground_truth.to(dtype)
    ground_truth[1, 2, 3] = value
    for function in FUNCTIONS.values():
        with pytest.raises(ValueError, match=rf"holds {value}, outside 0\.\.1: divide .* by 255"):
            function(logits, ground_truth)
    if value > 0:  # as many classes as that
        losses.mean_dice(torch.zeros(4, value + 1, 9, 7), ground_truth)


def test_values_are_not_looked_at_where_there_are_none() -> None:
    module = SegmentationLosses(LOSSES)
    logits, ground_truth = example()
    with FakeTensorMode() as mode:
        fake = module(*map(mode.from_tensor, (logits, ground_truth)))[0]
    assert fake.shape == (len(LOSSES),)
    assert module(logits.to("meta"), ground_truth.to("meta"))[0].is_meta
    batched = torch.func.vmap(lambda *image: module(*image)[0])(
        logits[:, None], ground_truth[:, None]
    )
    torch.testing.assert_close(batched[0], module(logits[:1], ground_truth[:1])[0])


@pytest.mark.slow
def test_a_pixel_outside_the_classes_is_a_false_positive_where_it_is_not_refused() -> None:
    """In a compiled graph, as on a GPU: nothing waits for the values."""
    logits, ground_truth = example(9, images=1)
    ground_truth = ground_truth.clone()
    ground_truth[0, 0, 0] = 255
    claimed = logits.softmax(1).sum((0, 2, 3))
    truth = torch.stack([(ground_truth == c) for c in (0, 1)]).flatten(1).double()
    true_positive = (logits.softmax(1)[0].flatten(1) * truth).sum(1)
    expected = 1 - (2 * true_positive / (claimed + truth.sum(1))).mean()
    torch._dynamo.reset()
    compiled = torch.compile(SegmentationLosses(("dice",)), fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(logits, ground_truth)[0][0], expected)


@pytest.mark.slow
def test_compiles_without_graph_breaks() -> None:
    logits, ground_truth = example(10)
    module = SegmentationLosses(("cross_entropy", "iou", "dice"), "cb_dice")
    compiled = torch.compile(copy.deepcopy(module), fullgraph=True, backend="aot_eager")
    for ours, expected in zip(
        compiled(logits, ground_truth), module(logits, ground_truth), strict=True
    ):
        torch.testing.assert_close(ours, expected)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("kind", ["soft", "hard"])
def test_deterministic_on_cuda_and_equal_to_the_cpu(kind: str) -> None:
    logits, ground_truth = example(11, images=8, spatial=(128, 128))
    module = SegmentationLosses(LOSSES, kind=kind)
    expected, _ = module(logits.float(), ground_truth)
    outcomes = []
    torch.use_deterministic_algorithms(True)
    try:
        for _ in range(2):
            x = logits.float().cuda().requires_grad_()
            value, _ = module(x, ground_truth.cuda())
            value.sum().backward()
            outcomes.append((value.detach(), x.grad))
    finally:
        torch.use_deterministic_algorithms(False)
    assert torch.equal(outcomes[0][0], outcomes[1][0])
    assert torch.equal(outcomes[0][1], outcomes[1][1])
    torch.testing.assert_close(outcomes[0][0].cpu(), expected, atol=1e-6, rtol=1e-6)


def test_refuses_what_does_not_fit() -> None:
    logits, ground_truth = example()
    module = SegmentationLosses()
    with pytest.raises(ValueError, match="two logits"):
        module(logits[:, :1], ground_truth)
    with pytest.raises(ValueError, match="ground_truth must be"):
        module(logits, ground_truth[:, :-1])
    with pytest.raises(TypeError, match="integer class indices"):
        module(logits, ground_truth.float())
    with pytest.raises(ValueError, match="unknown loss 'dise'"):
        SegmentationLosses(("dise",))
    with pytest.raises(ValueError, match="unknown loss 'hinge'"):
        SegmentationLosses(auxiliary="hinge")
    with pytest.raises(ValueError, match="name at least one loss"):
        SegmentationLosses(())
    with pytest.raises(ValueError, match="unknown kind 'firm'"):
        SegmentationLosses(kind="firm")  # type: ignore[arg-type]
