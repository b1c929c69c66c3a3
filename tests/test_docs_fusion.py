"""The code on the page about the fusion runs, and does what the page says of it."""

import re
from pathlib import Path
from typing import Any

import pytest

PAGE = Path(__file__).parents[1] / "docs" / "fusion.md"


def test_code_of_the_page() -> None:
    text = PAGE.read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)
    assert len(blocks) >= 9
    namespace: dict[str, Any] = {}
    for block in blocks:
        # Keep the lines of the page, so that a failure points at them.
        lines_before = text[: text.index(block)].count("\n")
        exec(compile("\n" * lines_before + block, str(PAGE), "exec"), namespace)
    assert namespace["worst_error"] < 0.05
    assert namespace["fusion"].events["non_finite_auxiliary"] == 1
    right, naive = namespace["errors"][True], namespace["errors"][False]
    assert max(right) < 0.01 < min(naive)
    averaged = namespace["regression"].fusion.weights
    assert averaged.sum().item() == pytest.approx(1)
    assert not averaged.equal(namespace["torch"].full((2,), 0.5))
