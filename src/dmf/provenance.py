"""What a result comes from: the code of each step, its hash, commit and project; the machine.

Snakemake and DVC rerun a step when its files change; a run key holds the hash of the training's.
The command line, `study.py`, `settings.py` and what only moves files around are not among them.
Nothing but the standard library is imported, so that every interpreter can say the hash.
"""

import ast
import hashlib
import importlib.metadata
import os
import platform
import re
import subprocess
from collections.abc import Iterable
from functools import cache
from itertools import groupby
from pathlib import Path

STEP_FILES = {
    "download": [
        "data/archives.py",
        "data/catalogue.py",
        "data/catalogue.yaml",
        "data/download.py",
        "data/duplicates.py",
        "data/pairing.py",
        "data/patients.py",
        "data/phantom.py",
        "data/pixels.py",
        "data/raw.py",
        "data/tables.py",
        "data/transfer.py",
    ],
    "filter": ["data/arrays.py", "data/filtering.py", "data/raw.py"],
    "split": ["data/splits.py", "data/tables.py"],
    "train": [
        "convolution.py",
        "fusion.py",
        "losses.py",
        "metrics.py",
        "training/engine.py",
        "training/optimizer.py",
        "training/protocol.py",
        "unet.py",
    ],
    "evaluate": ["training/evaluate.py"],
    "aggregate": ["analysis/results.py"],
    "card": ["data/cards.py"],
    "report": ["analysis"],
}

PACKAGE = Path(__file__).resolve().parent
# Said by the place (ctx), by nothing but spelling (kind), or by comments.
_SAYS_NOTHING = frozenset({"ctx", "kind", "type_comment", "type_ignores"})


def step_files(step: str) -> list[Path]:
    """Return the files of ``step``, sorted, relative to the package."""
    return _files_below(PACKAGE, STEP_FILES[step])


def code_hash(step: str) -> str:
    """Return the SHA-256 of what the interpreter runs in ``step``.

    Comments, docstrings, formatting, line endings and the version of Python leave it alone.
    """
    return files_hash(PACKAGE, step_files(step))


def package_hash(package: Path = PACKAGE) -> str:
    """Return the SHA-256 of all files of a copy of this package, as they are but for line endings.

    Every job asks for it, and syntax trees of all files would take half a second.
    """
    digest = hashlib.sha256()
    for name in _files_below(package, ["."]):
        content = (package / name).read_bytes().replace(b"\r\n", b"\n")
        digest.update(f"{name.as_posix()} {len(content)}\n".encode() + content)
    return digest.hexdigest()


def files_hash(root: Path, names: Iterable[Path]) -> str:
    """Return the SHA-256 of the names, relative to ``root``, and the contents of files.

    Of Python files the :func:`canonical` form counts, of others the bytes, with LF line endings.
    Raises SyntaxError for a Python file that is none.
    """
    digest = hashlib.sha256()
    for name in names:
        content = _content(root / name)
        digest.update(f"{name.as_posix()} {len(content)}\n".encode())
        digest.update(content)
    return digest.hexdigest()


@cache  # A process runs what it imported, whatever is written to the files meanwhile.
def _content(path: Path) -> bytes:
    content = path.read_bytes()
    if path.suffix == ".py":
        return canonical(content).encode()
    return content.replace(b"\r\n", b"\n")


def canonical(source: bytes) -> str:
    """Return what Python ``source`` does, as text that is the same for Python 3.11 and newer.

    It is the syntax tree: class names, and by name the fields that are neither empty nor a mere
    position. (`ast.dump` prints other fields in each version.) Docstrings are left out, as is every
    statement that does nothing, unless the module reads its ``__doc__``: they are results then.
    Raises SyntaxError.
    """
    return _text(ast.parse(source), with_strings=b"__doc__" in source)


def _text(node: object, with_strings: bool) -> str:
    if isinstance(node, ast.Constant):
        # ascii: what repr escapes depends on the version's Unicode tables.
        return f"{type(node.value).__name__} {node.value!a}"
    if isinstance(node, ast.JoinedStr):
        return f"JoinedStr({','.join(_pieces(node.values, with_strings))})"
    if isinstance(node, ast.AST):
        fields = []
        for name in sorted(node._fields):
            text = _text(getattr(node, name, None), with_strings)
            if name not in _SAYS_NOTHING and text not in ("None", "[]"):
                fields.append(f"{name}={text}")
        return f"{type(node).__name__}({','.join(fields)})"
    if isinstance(node, list):
        kept = [item for item in node if not _does_nothing(item, with_strings)]
        return f"[{','.join([_text(item, with_strings) for item in kept])}]"
    return ascii(node)


def _pieces(values: list[ast.expr], with_strings: bool) -> Iterable[str]:
    """Yield the parts of an f-string; versions differ in how they cut its text."""
    for is_text, group in groupby(values, lambda value: isinstance(value, ast.Constant)):
        if is_text:
            text = "".join(str(value.value) for value in group if isinstance(value, ast.Constant))
            if text:
                yield ascii(text)
        else:
            yield from (_text(value, with_strings) for value in group)


def _does_nothing(statement: object, with_strings: bool) -> bool:
    """Return whether it is `pass`, a docstring, or another string that stands alone."""
    if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
        return isinstance(statement.value.value, str) and not with_strings
    return isinstance(statement, ast.Pass)


def _files_below(root: Path, names: Iterable[str]) -> list[Path]:
    files: set[Path] = set()
    for name in names:
        path = root / name
        found = path.rglob("*") if path.is_dir() else [path]
        files |= {
            f.relative_to(root) for f in found if f.is_file() and "__pycache__" not in f.parts
        }
    return sorted(files)


def code_version() -> dict[str, str | bool | None]:
    """Return the `commit` of the checkout that this package is part of, and whether it is `dirty`.

    Dirty is a changed tracked file, or a new file of Python or of the workflow, in the package, in
    workflow/, or the Snakefile. Other files do not count: parameters and data have hashes of their
    own, and a report written into the checkout changes no later run. Both are None for a copy that
    no repository tracks: an image, an archive, site-packages, even if inside of a repository.
    """
    tracked = _git("ls-files", "--error-unmatch", "--", "__init__.py")
    commit = _git("rev-parse", "HEAD") if tracked else None
    if commit is None:
        return {"commit": None, "dirty": None}
    beside = [name for name in ("../../Snakefile", "../../workflow") if (PACKAGE / name).exists()]
    status = _git(
        *("status", "--porcelain", "-z", "--no-renames", "--untracked-files=all"),
        *("--", ".", *beside),
    )
    if status is None:
        return {"commit": commit.strip(), "dirty": None}
    changes = [entry for entry in status.split("\0") if entry]
    dirty = any(not c.startswith("??") or c.endswith((".py", ".smk")) for c in changes)
    return {"commit": commit.strip(), "dirty": dirty}


def versions() -> dict[str, str]:
    """Return the versions of Python and of the libraries that compute a training."""
    libraries = {name: importlib.metadata.version(name) for name in ("torch", "numpy")}
    return {"python": platform.python_version(), **libraries}


def processor() -> str:
    """Return the name of this machine's processor."""
    try:
        found = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        found = None
    return found[1] if found else platform.processor() or platform.machine()


def foreign_code(project: Path, code: str | None = None) -> str | None:
    """Return why this package must not work for the project in a folder, or None if it may.

    A folder without `src/dmf` says nothing, unless ``code`` is the :func:`package_hash` of a
    project that cannot be seen from here. Another checkout is always refused: it may hold the same
    code now and other code tomorrow. An installed copy is as good as the project's own while its
    code is the same, and so is a checkout for the copy in which DVC runs an experiment of it.
    """
    own = project.resolve() / "src/dmf"
    if (own / "__init__.py").is_file():
        if own.samefile(PACKAGE):
            return None
        code = package_hash(own)
    elif code is None:
        return None
    checkout = (PACKAGE.parents[1] / ".git").exists()
    # DVC runs an experiment (`dvc exp run --temp`) in a copy below the checkout that it is of.
    of_dvc = PACKAGE.parents[1] / ".dvc/tmp/exps" in own.parents
    if (not checkout or of_dvc) and package_hash() == code:
        return None
    remedy = (
        f"Use the project's own environment: `make environment` in {own.parents[1]} (delete a "
        "copied .venv first), then `source .venv/bin/activate`."
    )
    if not checkout:
        remedy += " Or install this copy, or build this image, again from the project's code."
    return (
        f"This dmf is {PACKAGE}, but the project's code is {own}: results would be those of "
        f"{'another checkout' if checkout else 'other code'}. {remedy}"
    )


def _git(*arguments: str) -> str | None:
    """Return what git says in the package's folder; None if it refuses or is not there."""
    # A hook's GIT_DIR speaks of the repository that is committed to.
    inherited = {"GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"}
    try:
        return subprocess.run(
            ["git", "--no-optional-locks", *arguments],
            cwd=PACKAGE,
            env={name: value for name, value in os.environ.items() if name not in inherited},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
    except (OSError, subprocess.CalledProcessError):
        return None
