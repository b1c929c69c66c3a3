"""The released notebook's behaviour, against numbers observed by running that notebook.

`tests/golden` holds an excerpt. The environment variable DMF_RELEASED_NOTEBOOK may name a complete
record in the same form, with the weights and gamma of every step; it is then tested as well.
"""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from dmf.fusion import DynamicMemoryFusion
from dmf.losses import LOSSES, SegmentationLosses
from dmf.metrics import SegmentationMetrics
from dmf.study import Study
from dmf.training.engine import build_fusion, build_losses

from conftest import tiny

# The notebook's switches, as `preset: released` sets them.
LOSS_SWITCHES: dict[str, Any] = {"kind": "hard", "focal_on": "precision"}
FUSION_SWITCHES: dict[str, Any] = {"median": "released", "detach": False}

EXCERPT = Path(__file__).parent / "golden" / "released_notebook_excerpt.json"
RECORDS = [EXCERPT, *map(Path, filter(None, [os.environ.get("DMF_RELEASED_NOTEBOOK")]))]
WEIGHTINGS = {"variance": "var", "mad": "mad", "bayesian": "bayes"}
EXPECTED_LOSSES = {
    "cross_entropy": "categorical_crossentropy",
    "iou": "iou_loss",
    "dice": "dice_loss",
    "focal": "focal_loss",
    "tversky": "tversky_loss",
    "cb_dice": "class_balanced_dice_loss",
}
EXPECTED_METRICS = {
    "dice": "dice",
    "iou": "iou",
    "f1": "f1_score",
    "precision": "precision",
    "recall": "recall",
    "cb_dice": "class_balanced_dice_score",
}


@pytest.fixture(scope="module", params=RECORDS, ids=lambda path: path.stem)
def record(request: pytest.FixtureRequest) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(request.param.read_text())
    return content


def by_step(values: list[Any] | dict[str, Any]) -> dict[int, Any]:
    items = enumerate(values) if isinstance(values, list) else values.items()
    return {int(step): value for step, value in items}


def test_the_preset_of_the_study_sets_these_switches() -> None:
    parameters = Study.from_mapping({**tiny(), "preset": "released"}).run_parameters("focal-mad")
    losses, fusion = build_losses(parameters), build_fusion(parameters, 0)
    assert {name: getattr(losses, name) for name in LOSS_SWITCHES} == LOSS_SWITCHES
    assert {name: getattr(fusion, name) for name in FUSION_SWITCHES} == FUSION_SWITCHES


@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_weights(record: dict[str, Any], weighting: str) -> None:
    series = torch.tensor(record["loss_series"])
    expected = by_step(record["weights"][WEIGHTINGS[weighting]])
    fusion = DynamicMemoryFusion(
        len(series),
        weighting,
        warmup=record["history_size"],
        window=record["history_size_max"],
        **FUSION_SWITCHES,
    )
    assert len(expected) >= 9
    for step, losses in enumerate(series.T):
        fusion(losses)
        if step in expected:
            assert fusion.weights.tolist() == pytest.approx(expected[step], abs=1e-5)


def test_the_true_median_gives_other_weights(record: dict[str, Any]) -> None:
    series = torch.tensor(record["loss_series"])
    fusion = DynamicMemoryFusion(len(series), "mad")
    for losses in series.T:
        fusion(losses)
    expected = by_step(record["weights"]["mad"])[series.shape[1] - 1]
    assert fusion.weights.tolist() != pytest.approx(expected, abs=1e-4)


def test_gamma(record: dict[str, Any]) -> None:
    expected = by_step(record["gamma_by_batch"])
    fusion = DynamicMemoryFusion(1)
    for batch in range(max(expected) + 1):
        fusion(torch.ones(1), torch.ones(()))
        if batch in expected:
            assert fusion.gamma.item() == pytest.approx(expected[batch], abs=1e-5)


def test_losses_and_metrics(record: dict[str, Any]) -> None:
    for case in record["cases"]:
        ground_truth = torch.tensor(case["mask"])
        foreground = torch.tensor(case["foreground_probability"])
        logits = torch.stack((1 - foreground, foreground), dim=1).log()
        values, _ = SegmentationLosses(LOSSES, **LOSS_SWITCHES)(logits, ground_truth)
        for name, value in zip(LOSSES, values.tolist(), strict=True):
            expected = case["expected"][EXPECTED_LOSSES[name]]
            assert value == pytest.approx(expected, abs=1e-5), name

        metrics = SegmentationMetrics()
        metrics.update(logits.argmax(1), ground_truth)
        computed = metrics.compute()
        for name, key in EXPECTED_METRICS.items():
            assert computed[name] == pytest.approx(case["expected"][key], abs=1e-5), name


def test_only_the_cross_entropy_has_a_gradient() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 2, 8, 8, generator=generator, requires_grad=True)
    ground_truth = torch.randint(0, 2, (2, 8, 8), generator=generator)

    def gradient(name: str) -> torch.Tensor | None:
        _, loss = SegmentationLosses(auxiliary=name, **LOSS_SWITCHES)(logits, ground_truth)
        assert loss is not None
        if not loss.requires_grad:
            return None
        return torch.autograd.grad(loss, logits)[0]

    assert gradient("cross_entropy") is not None
    for name in ("iou", "dice", "focal", "tversky", "cb_dice"):
        assert gradient(name) is None

    # So the fused loss pulls in the direction of the cross-entropy, whatever the weights are.
    fusion = DynamicMemoryFusion(weighting="mad", warmup=2, window=6, **FUSION_SWITCHES)
    for _ in range(5):
        noise = torch.randn(logits.shape, generator=generator)
        base, auxiliary = SegmentationLosses(auxiliary="tversky", **LOSS_SWITCHES)(
            logits + noise, ground_truth
        )
        total = fusion(base, auxiliary)
        (fused,) = torch.autograd.grad(total, logits, retain_graph=True)
        (alone,) = torch.autograd.grad(base[0], logits)
        cosine = torch.nn.functional.cosine_similarity(fused.flatten(), alone.flatten(), dim=0)
        assert cosine.abs().item() == pytest.approx(1, abs=1e-5)


def test_infinite_focal_term_is_not_fatal() -> None:
    logits = torch.zeros(1, 2, 4, 4)
    logits[:, 0] = 1.0
    ground_truth = torch.zeros(1, 4, 4, dtype=torch.int64)
    ground_truth[0, 0, 0] = 1  # the lesion is missed altogether
    logits.requires_grad_()
    base, auxiliary = SegmentationLosses(auxiliary="focal", **LOSS_SWITCHES)(logits, ground_truth)
    assert auxiliary == torch.inf
    fusion = DynamicMemoryFusion(**FUSION_SWITCHES)
    total = fusion(base, auxiliary)
    total.backward()
    assert total.isfinite()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()
    assert fusion.events["non_finite_auxiliary"] == 1
