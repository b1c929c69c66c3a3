"""Arguments that several commands of `dmf` take, and the study that they name."""

import os
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, TypeVar

import typer
from pydantic import ValidationError

from dmf import layout
from dmf.errors import DmfError
from dmf.files import make_folder
from dmf.provenance import foreign_code
from dmf.settings import MOST_SEEDS, NAME, Settings
from dmf.study import Study
from dmf.validation import explain

T = TypeVar("T", bound=Settings)


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


def _with_its_own_code(params: Path) -> Path:
    """Refuse to work on a project whose code is not this code; raises DmfError."""
    refuse_foreign_code(params.parent)
    return params


def refuse_foreign_code(project: Path, code: str | None = None) -> None:
    """Raise DmfError if a project's code is not the one that runs, as `foreign_code` tells it."""
    problem = foreign_code(project, code)
    if problem is not None:
        raise DmfError(problem)


Params = Annotated[Path, typer.Option("--params", help="The study.", callback=_with_its_own_code)]
Overlay = Annotated[
    list[Path] | None,
    typer.Option("--overlay", help="Laid over the study, in order, e.g. config/demo.yaml."),
]
Dataset = Annotated[str, typer.Argument(help="As in params.yaml.", callback=a_name)]
Seed = Annotated[int, typer.Argument(callback=_a_seed)]
Json = Annotated[str | None, typer.Option("--parameters", help="JSON in place of the study.")]
Root = Annotated[Path, typer.Option("--root", help="The project's folder.")]
ROOT_PARAMS = Path("params.yaml")
Project = Annotated[
    Path | None,
    typer.Option("--root", help="What local files are relative to. [default: the study's folder]"),
]


def enter_study(params: Path, overlay: list[Path] | None) -> Study:
    """Load the study and enter its working directory."""
    study = Study.load(params, *(overlay or []))
    workdir = params.parent / study.grid.workdir
    make_folder(workdir)
    os.chdir(workdir)
    return study


def snakemake(params: Path, overlay: list[Path] | None) -> str:
    """Return the command that makes the study, in the project's folder."""
    own = [shlex.quote(str(path)) for path in overlay or () if path.resolve() != params.resolve()]
    return " ".join(["snakemake --cores all", *(["--configfile", *own] if own else [])])


def parameters_of(
    model: type[T],
    text: str | None,
    params: Path,
    overlay: list[Path] | None,
    take: Callable[[Study], T],
) -> T:
    """Return a step's parameters: those in the JSON `text`, else what `take` takes of the study."""
    return take(enter_study(params, overlay)) if text is None else parsed(model, text)


def parsed(model: type[T], text: str) -> T:
    """Return parameters given as JSON; raises DmfError if they are not what ``model`` says."""
    try:
        return model.model_validate_json(text)
    except ValidationError as error:
        raise DmfError(f"--parameters or --execution: not valid\n{explain(error, model)}") from None


def model_at(named: Path, params: Path, overlay: list[Path] | None) -> Path:
    """Return the run folder or model file that is meant: as it is, or in the study's folder."""
    if named.exists() or named.is_absolute() or not params.exists():
        return named
    workdir = params.parent / Study.load(params, *(overlay or [])).grid.workdir
    there = [workdir / layout.MODELS / named, workdir / named]
    return next((path for path in there if path.exists()), named)
