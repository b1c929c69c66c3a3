"""The code that the documents show of the fusion runs, and does what they say of it."""

import re
from typing import Any

import pytest

from conftest import REPOSITORY

PAGE = REPOSITORY / "docs/fusion.md"
README = REPOSITORY / "README.md"


@pytest.mark.slow
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


def test_the_three_lines_of_the_readme() -> None:
    import torch

    (change,) = re.findall(r"^```diff\n(.*?)^```", README.read_text(), re.DOTALL | re.MULTILINE)
    lines = change.splitlines()
    assert sum(line.startswith("+") for line in lines) == 3
    model = torch.nn.Linear(2, 1)
    before = model.weight.detach().clone()
    namespace: dict[str, Any] = {
        "batches": [(torch.randn(4, 2), torch.randn(4, 1)) for _ in range(60)],
        "model": model,
        "losses": lambda output, targets: ((output - targets).square().mean(), output.abs().mean()),
        "optimiser": torch.optim.SGD(model.parameters(), lr=0.1),
    }
    exec("\n".join(line[1:] for line in lines if not line.startswith("-")), namespace)
    assert namespace["fusion"].weights.sum().item() == pytest.approx(1)
    assert not torch.equal(model.weight, before)
