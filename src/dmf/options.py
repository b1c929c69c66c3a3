"""The arguments and options that commands share."""

import re
from pathlib import Path
from typing import Annotated

import typer

from dmf.errors import DmfError
from dmf.provenance import foreign_code
from dmf.settings import MOST_SEEDS, NAME


def _with_its_own_code(params: Path) -> Path:
    """Refuse to work on a project whose code is not this code; raises DmfError."""
    refuse_foreign_code(params.parent)
    return params


def refuse_foreign_code(project: Path, code: str | None = None) -> None:
    problem = foreign_code(project, code)
    if problem is not None:
        raise DmfError(problem)


def a_name(text: str | None) -> str | None:
    """Refuse what is no name: it would become a path. Raises DmfError."""
    if text is not None and not re.fullmatch(NAME, text):
        raise DmfError(f"{text!r} is no name: use small letters, digits and _, a letter first")
    return text


def _a_seed(seed: int) -> int:
    """Refuse what no study has, and no name of a file is made for. Raises DmfError."""
    if not 0 <= seed < MOST_SEEDS:
        raise DmfError(f"{seed} is no seed: use 0 to {MOST_SEEDS - 1}")
    return seed


Dataset = Annotated[str, typer.Argument(help="As in params.yaml.", callback=a_name)]
Seed = Annotated[int, typer.Argument(callback=_a_seed)]
Params = Annotated[Path, typer.Option("--params", help="The study.", callback=_with_its_own_code)]
Overlay = Annotated[
    list[Path] | None,
    typer.Option("--overlay", help="Laid over the study, in order, e.g. config/demo.yaml."),
]
Json = Annotated[str | None, typer.Option("--parameters", help="JSON in place of the study.")]
Root = Annotated[Path, typer.Option("--root", help="The project's folder.")]
ROOT_PARAMS = Path("params.yaml")
