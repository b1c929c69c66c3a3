"""Each room of the analysis imports only those that stand before it."""

import ast

from conftest import REPOSITORY

ROOMS = ["words", "results", "protocol", "paper", "verdict", "tables", "figures", "page"]
ANALYSIS = REPOSITORY / "src/dmf/analysis"


def imported(source: str) -> set[str]:
    """Return the rooms that a module imports."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("dmf.analysis"):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            found |= {name.split(".")[2] for name in names}
    return found


def test_no_import_leads_upward() -> None:
    assert {path.stem for path in ANALYSIS.iterdir()} - {"__pycache__", "__init__"} == set(ROOMS)
    for path in ANALYSIS.rglob("*.py"):
        room = path.relative_to(ANALYSIS).parts[0].removesuffix(".py")
        below = ROOMS[: ROOMS.index(room) + 1] if room in ROOMS else []
        assert imported(path.read_text(encoding="utf-8")) <= set(below), path
