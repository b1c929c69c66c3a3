"""The audit: silent on tables that real predictions could give, loud where numbers do not fit."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from dmf.analysis.paper import audit
from dmf.analysis.paper.numbers import paper_table
from dmf.outcomes import METRICS

from conftest import REPOSITORY


def scores(foreground: float, precision: float, recall: float) -> NDArray[np.float64]:
    """Return the six metrics, in percent, of one batch with the foreground's P and R."""
    tp = recall * foreground
    fn, fp = foreground - tp, tp / precision - tp
    tn = 1 - foreground - fp
    p = (precision + tn / (tn + fn)) / 2
    r = (recall + tn / (tn + fp)) / 2
    lesion, rest = 2 * tp / (2 * tp + fp + fn), 2 * tn / (2 * tn + fp + fn)
    return 100 * np.array(
        [
            (lesion + rest) / 2,
            (tp / (tp + fp + fn) + tn / (tn + fp + fn)) / 2,
            2 * p * r / (p + r),
            p,
            r,
            (1 - foreground) * lesion + foreground * rest,
        ]
    )


def row(runs: NDArray[np.float64]) -> audit.Row:
    """Return the row a paper would print of ``runs`` (runs, metrics)."""
    means, stds = runs.mean(axis=0).round(2), runs.std(axis=0, ddof=1).round(2)
    return audit.Row(
        "busi",
        "fixed",
        "Table 1 (BUSI)",
        dict(zip(METRICS, means.tolist(), strict=True)),
        dict(zip(METRICS, stds.tolist(), strict=True)),
    )


# Foreground share, precision, recall; false positives cannot be more than there is background.
QUALITY = st.tuples(st.floats(0.02, 0.4), st.floats(0.3, 0.999), st.floats(0.3, 0.999)).filter(
    lambda quality: quality[0] * quality[2] * (1 / quality[1] - 1) < 1 - quality[0]
)


@given(st.lists(QUALITY, min_size=2, max_size=20))
@settings(deadline=None, max_examples=50)
def test_no_averaging_of_real_predictions_is_called_inconsistent(
    batches: list[tuple[float, float, float]],
) -> None:
    printed = row(np.array([scores(*batch) for batch in batches]))
    assert [
        finding.id for finding in audit.check_row(printed) if finding.certainty == "exact"
    ] == []


@pytest.mark.parametrize("seed", range(5))
def test_ordinary_studies_raise_no_finding_at_all(seed: int) -> None:
    """Ten runs of four test batches, as good and as varied as the paper's."""
    generator = np.random.default_rng(seed)
    runs = []
    for _ in range(10):
        quality = generator.normal(0, 0.01)
        batches = [
            scores(
                0.10 * np.exp(generator.normal(0, 0.2)),
                float(np.clip(0.92 + quality + generator.normal(0, 0.015), 0, 0.99)),
                float(np.clip(0.86 + quality + generator.normal(0, 0.015), 0, 0.99)),
            )
            for _ in range(4)
        ]
        runs.append(np.mean(batches, axis=0))
    assert audit.check_row(row(np.array(runs))) == []


def changed(**means: float) -> list[str]:
    """Return which checks fire when some means of a fitting row are changed."""
    fitting = row(np.array([scores(0.1, 0.9, 0.88), scores(0.1, 0.92, 0.9)]))
    assert audit.check_row(fitting) == []
    bent = audit.Row("busi", "fixed", "", {**fitting.mean, **means}, fitting.std)
    return [finding.id.partition("/")[0] for finding in audit.check_row(bent)]


def test_each_inequality_is_watched() -> None:
    # The fitting row: Dice 94.46, IoU 89.92, F1 94.46.
    assert changed(iou=89.0) == ["iou-below-dice"]
    assert changed(iou=91.5) == ["iou-above-dice"]
    assert changed(f1=94.3) == ["f1-below-dice"]
    assert changed(f1=94.6) == ["f1-above-precision-recall"]
    assert "f1-far-above-dice" in changed(dice=93.9, iou=89.0)


def test_rounding_is_granted() -> None:
    dice = 90.0
    exact = audit.jaccard(dice)
    std = dict.fromkeys(METRICS, 1.0) | {"iou": 1.7}
    base = {"dice": dice, "f1": dice, "precision": dice, "recall": dice, "cb_dice": 85.0}
    at = audit.Row("busi", "fixed", "", base | {"iou": round(exact, 2)}, std)
    below = audit.Row("busi", "fixed", "", base | {"iou": round(exact, 2) - 0.03}, std)
    assert audit.check_row(at) == []
    assert [f.id.partition("/")[0] for f in audit.check_row(below)] == ["iou-below-dice"]


@given(st.floats(0.01, 0.49), st.floats(0.5, 0.99))
@settings(deadline=None, max_examples=50)
def test_share_and_foreground_come_back_from_dice_and_cb_dice(share: float, quality: float) -> None:
    dice, *_, cb_dice = scores(share, quality, quality)
    assert audit.implied_share(dice, cb_dice) == pytest.approx(share, abs=1e-6)
    assert audit.implied_foreground(dice, share) == pytest.approx(100 * quality)


def test_no_share_fits_a_cb_dice_above_dice() -> None:
    assert np.isnan(audit.implied_share(90.0, 91.0))
    assert np.isnan(audit.implied_share(90.0, 79.0))


@pytest.fixture(scope="module")
def found() -> dict[str, audit.Finding]:
    findings = audit.findings()
    assert len({finding.id for finding in findings}) == len(findings)
    return {finding.id: finding for finding in findings}


@pytest.mark.parametrize(
    ("name", "numbers"),
    [
        ("iou-below-dice/busc/none-variance", ["94.89", "90.28", "89.10"]),
        ("iou-below-dice/bus/fixed", ["92.16", "85.46", "85.34"]),
        ("f1-far-above-dice/bus/tversky-variance", ["95.42", "93.35", "2.07"]),
        ("iou-above-dice/bus/tversky-variance", ["93.35", "91.28", "95.4"]),
        ("text-not-in-table/bus/cb_dice-mad/precision", ["97.31", "93.30", "Recall"]),
        ("text-not-in-table/bus/none-any/dice", ["91.20", "93.99", "CB-Dice"]),
        ("implied-share/bus/tversky-variance", ["6.80/6.65", "0.425", "0.159"]),
        ("text-not-highest/busi/focal-any/precision", ["96.12", "96.95"]),
        ("text-not-lowest/busc/any/dice", ["93.95", "93.40"]),
        ("f1-above-precision-recall/bus/cb_dice-variance", ["95.30", "95.68", "95.79"]),
    ],
)
def test_known_inconsistencies_are_found_with_their_arithmetic(
    found: dict[str, audit.Finding], name: str, numbers: list[str]
) -> None:
    for number in numbers:
        assert number in found[name].arithmetic


def test_findings_follow_from_the_numbers_not_from_a_list(
    monkeypatch: pytest.MonkeyPatch, found: dict[str, audit.Finding]
) -> None:
    def mended(dataset: str) -> object:
        table = paper_table(dataset).copy()
        if dataset == "bus":
            table.loc["fixed", ("iou", "mean")] = 86.0
            table.loc["cb_dice-mad", ("precision", "mean")] = 97.31
            table.loc["cb_dice-mad", ("precision", "std")] = 0.84
        if dataset == "busi":
            table.loc["none-mad", ("f1", "mean")] = 93.0
        return table

    monkeypatch.setattr(audit, "paper_table", mended)
    now = {finding.id for finding in audit.findings()}
    assert "iou-below-dice/bus/fixed" not in now
    assert "text-not-in-table/bus/cb_dice-mad/precision" not in now
    assert "f1-below-dice/busi/none-mad" in now - set(found)


def test_the_first_table_is_set_against_independent_networks(
    found: dict[str, audit.Finding],
) -> None:
    text = found["independent/busi"].arithmetic
    assert "fixed weights 85.6" in text
    assert "with the measured share 0.094 fixed weights have 85.2" in text
    # 2 · 68.61 / 168.61; and 1 - (1 - d) / (2 (1 - 0.0944)) of either foreground Dice.
    assert "77.0 ± 3.1 and an IoU of 68.6" in text
    assert "2I/(1 + I) = 81.4" in text
    assert "87.3 if its Dice were pooled, 89.7 if its IoU were" in text
    assert "210 malignant" in text
    assert "without a lesion" in text
    assert "No independent U-Net" in found["independent/busc"].statement


def test_findings_accuse_nobody(found: dict[str, audit.Finding]) -> None:
    text = " ".join(f"{f.statement} {f.arithmetic}" for f in found.values()).lower()
    for word in (
        "wrong",
        "error",
        "mistake",
        "fabricat",
        "manipulat",
        "fraud",
        "invent",
        "authors",
    ):
        assert word not in text
    assert all(
        finding.place and finding.statement and finding.arithmetic for finding in found.values()
    )
    certainties = [finding.certainty for finding in found.values()]
    assert certainties == sorted(certainties, key=["exact", "approximate", "text", "context"].index)


def test_the_document_is_what_is_found(found: dict[str, audit.Finding]) -> None:
    text = (REPOSITORY / "docs/audit.md").read_text(encoding="utf-8")
    assert text == audit.document()
    assert all(finding.arithmetic in text for finding in found.values())
