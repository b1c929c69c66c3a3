"""Which code this is: hashes that spelling leaves alone, commits, and other projects' code."""

import ast
import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from dmf import provenance
from dmf.cli import app
from dmf.errors import DmfError

from conftest import REPOSITORY

TRAINING = [str(name) for name in provenance.step_files("train")]
BIN = Path(sys.executable).parent

# What versions of Python are known to see, cut or print in different ways is all in here.
SAMPLE = '''"""A docstring."""
from __future__ import annotations
import os.path as p, sys
from . import x

@decorated(1_000, 0x10, -0.0, 1e-7, 1e999, 2j, ..., None, True)
class A(B, metaclass=M):
    """Another."""
    field: int = 3
    (odd): int
    text = ("in " 'pieces' u"!"), b"bytes" rb"\\xff" br"\\n", "\U0001e4d0 \\N{BULLET} \\ud800"

def f(a, /, b: str = "c", *args, d, e=None, **kw) -> None:
    "Only a docstring."

async def g(*, h=lambda: 0):
    async with a as b, c: pass
    async for i, *j in k: yield {**a, "b": 1}, [*c], {d for d in e if f}
    return await (m := n)[1:2, ..., ::3]

try:
    global y
    del z.z, z[0]
except* (E, F) as error:
    raise G from error
else:
    assert a < b <= c is not None, f"{a!r:>{w}.{p}f} {{b}} {c=}" "tail" f"{d:}{e}" rf"\\d{f:x}"
match a:
    case {"k": [1, *_], **rest} if rest: ...
    case P(q, r=None) | -1j | "s": "a string that does nothing"
    case _: pass
while a if b else c: break
else: continue_ = not a or b and ~c @ d ** -1
'''
SAMPLE_HASH = "c387d2e44620735a71456805b566f4852e8b8691100fa1b6ff53a4f8a03254e3"


def canonical(text: str) -> str:
    return provenance.canonical(text.encode())


@pytest.mark.parametrize("name", TRAINING)
def test_spelling_leaves_the_training_code_alone(name: str) -> None:
    """Comments, docstrings, line endings, and everything that `unparse` writes in its own way."""
    source = (provenance.PACKAGE / name).read_text()
    pieces = source.split('"""')  # odd ones are docstrings
    pieces[1::2] = [f"In other words:\n{text}" for text in pieces[1::2]]
    documented = '"""'.join(pieces)
    assert documented != source
    for changed in (
        documented,
        f"# A comment.\n{source}\n# Another.\n",
        source.replace("\n", "\n\n"),
        source.replace("\n", "\r\n"),
        ast.unparse(ast.parse(source)),
    ):
        assert provenance.canonical(changed.encode()) == canonical(source)


def test_a_changed_constant_is_other_code(tmp_path: Path) -> None:
    for name in TRAINING:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(provenance.PACKAGE / name, tmp_path / name)
    names = [Path(name) for name in TRAINING]
    before = provenance.files_hash(tmp_path, names)
    assert before == provenance.code_hash("train")
    other = tmp_path / "other"
    shutil.copytree(tmp_path, other)
    source = (other / "unet.py").read_text()
    assert source.count("eps=1e-3") == 1
    (other / "unet.py").write_text(source.replace("eps=1e-3", "eps=1e-5"))
    assert provenance.files_hash(other, names) != before


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("x = 1", "x = 2"),
        ("x = 1", "x = 1.0"),
        ("x = 1", "x = True"),
        ("x = 0.1", "x = 0.10000000000000002"),
        ("x = 'a'", "x = b'a'"),
        ("x = None", "x = ..."),
        ("return_ = a", "return_ = b"),
        ("{**a, 'b': 1}", "{'b': 1, **a}"),
        ("def f(*, a, b=1): ...", "def f(*, a=1, b): ..."),
        ("def f(): return", "def f(): return None"),
        ("f'{x}'", "f'{x!r}'"),
        ("f'{x}'", "f'{x:}'"),
        ("f'{x}a'", "f'a{x}'"),
        ("x = a, b", "x = a; b"),
        ("if a: b()\nc()", "if a:\n b()\n c()"),
        ("def f(): 'a'", "def f(): a"),
        ("x = 'a'", "x = a"),
    ],
)
def test_what_runs_differently_differs(one: str, other: str) -> None:
    assert canonical(one) != canonical(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("x = 1000", "x = 0x3e8"),
        ("x = 1e-3", "x = 0.001"),
        ("x = 'ab'", 'x = ("a" "b")'),
        ("x = 'a'", "x = u'a'"),
        ("x = f'a{b}c'", "x = f'a' f'{b}' 'c'"),
        ("def f(): 'doc'", "def f(): pass"),
        ("class A:\n 'doc'\n x = 1\n 'about x'", "class A: x = 1"),
        ("'doc'\nx = 1", "x = 1"),
        ("x: int  # type: ignore", "x: int"),
    ],
)
def test_what_runs_the_same_is_the_same(one: str, other: str) -> None:
    assert canonical(one) == canonical(other)


def test_docstrings_that_are_read_count() -> None:
    assert canonical("def f(): 'a'\nf.__doc__") != canonical("def f(): 'b'\nf.__doc__")


def test_other_files_count_by_their_bytes_and_names(tmp_path: Path) -> None:
    for name, content in (("a.csv", b"1\n2\n"), ("b.csv", b"1\r\n2\r\n"), ("c.csv", b"1\n3\n")):
        (tmp_path / name[0]).mkdir()
        (tmp_path / name[0] / "x.csv").write_bytes(content)
    a, b, c = (provenance.files_hash(tmp_path / name, [Path("x.csv")]) for name in "abc")
    assert a == b != c
    assert a != provenance.files_hash(tmp_path, [Path("a/x.csv")])


def interpreters() -> list[str]:
    """Return a Python of each version that can be found here."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    found = []
    for version in ("3.11", "3.12", "3.13", "3.14"):
        installed = sorted(map(str, pyenv.glob(f"{version}.*/bin/python")))
        on_path = shutil.which(f"python{version}")
        found += installed or ([on_path] if on_path else [])
    return found


@pytest.mark.slow
def test_every_version_of_python_says_the_same(tmp_path: Path) -> None:
    assert provenance.files_hash(tmp_path, [sample(tmp_path)]) == SAMPLE_HASH
    script = (
        "import importlib.util, pathlib, sys\n"
        "spec = importlib.util.spec_from_file_location('code_', sys.argv[1])\n"
        "code = importlib.util.module_from_spec(spec); spec.loader.exec_module(code)\n"
        "print(code.files_hash(pathlib.Path(sys.argv[2]), [pathlib.Path('sample.py')]))\n"
        "print(*map(code.code_hash, code.STEP_FILES))\n"
    )
    expected = [SAMPLE_HASH, *map(provenance.code_hash, provenance.STEP_FILES)]
    for python in interpreters():
        done = subprocess.run(
            [
                python,
                "-I",
                "-S",
                "-W",
                "ignore",
                "-c",
                script,
                str(provenance.__file__),
                str(tmp_path),
            ],
            capture_output=True,
            text=True,
        )
        if "shims" in python and done.returncode:
            continue  # pyenv's word for a version that is not there
        assert done.stdout.split() == expected, (python, done.stderr)


def sample(folder: Path) -> Path:
    (folder / "sample.py").write_bytes(SAMPLE.encode())
    return Path("sample.py")


def test_the_sample_runs_into_every_corner() -> None:
    kinds = {type(node).__name__ for node in ast.walk(ast.parse(SAMPLE))}
    assert {"JoinedStr", "FormattedValue", "MatchSingleton", "TryStar", "Starred"} <= kinds


def test_git_leaves_line_endings_alone_that_hashes_depend_on() -> None:
    asked = ["src/dmf/unet.py", ".ci/run", "x.sh", "reports/published/x/history.csv", "x.png"]
    done = subprocess.run(
        ["git", "check-attr", "eol", "text", "--", *asked],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        pytest.skip("not a git checkout")
    said = dict(line.rsplit(": ", 1) for line in done.stdout.splitlines())
    assert {said[f"{name}: eol"] for name in asked[:4]} == {"lf"}
    assert said["x.png: text"] == "unset"


# A checkout and a copy, each with a package of two files.


def git(folder: Path, *arguments: str) -> None:
    person = ["-c", "user.name=tests", "-c", "user.email=tests@localhost"]
    subprocess.run(["git", *person, *arguments], cwd=folder, check=True, capture_output=True)


def package(folder: Path) -> ModuleType:
    """Put this code into a package in ``folder``; return it as imported from there."""
    (folder / "dmf").mkdir(parents=True)
    (folder / "dmf/__init__.py").touch()
    shutil.copy(provenance.__file__, folder / "dmf/provenance.py")
    spec = importlib.util.spec_from_file_location("other_provenance", folder / "dmf/provenance.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def checkout(folder: Path) -> ModuleType:
    module = package(folder / "src")
    (folder / "workflow").mkdir()
    (folder / "workflow/train.smk").touch()
    (folder / "README.md").touch()
    git(folder, "init", "--quiet")
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message", "one")
    return module


def test_dirty_is_what_runs(tmp_path: Path) -> None:
    module = checkout(tmp_path)
    version = module.code_version()
    assert len(version["commit"]) == 40
    assert version["dirty"] is False
    (tmp_path / "README.md").write_text("changed")
    (tmp_path / "src/dmf/notes.txt").touch()
    (tmp_path / "new.py").touch()
    assert module.code_version() == version
    for path, text in (("workflow/train.smk", "changed"), ("src/dmf/new.py", "")):
        (tmp_path / path).write_text(text)
        assert module.code_version() == {**version, "dirty": True}
        git(tmp_path, "checkout", "--quiet", "workflow")


def test_a_copy_inside_a_repository_is_not_taken_for_it(tmp_path: Path) -> None:
    checkout(tmp_path)
    nothing = {"commit": None, "dirty": None}
    assert package(tmp_path / ".venv/site-packages").code_version() == nothing


def test_a_hook_of_another_repository_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = checkout(tmp_path / "mine")
    (tmp_path / "other").mkdir()
    git(tmp_path / "other", "init", "--quiet")
    version = module.code_version()
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "other/.git"))
    assert module.code_version() == version


def test_a_checkout_serves_itself_and_folders_without_code(tmp_path: Path) -> None:
    module = checkout(tmp_path / "one")
    assert module.foreign_code(tmp_path / "one") is None
    assert module.foreign_code(tmp_path) is None
    (tmp_path / "link").symlink_to("one")
    assert module.foreign_code(tmp_path / "link") is None


def test_a_second_checkout_is_refused_whatever_it_holds(tmp_path: Path) -> None:
    module = checkout(tmp_path / "one")
    checkout(tmp_path / "two")
    said = module.foreign_code(tmp_path / "two")
    for part in ("one/src/dmf", "two/src/dmf", "another checkout", f"in {tmp_path}/two"):
        assert part in said


def test_an_installed_copy_serves_while_its_code_is_the_same(tmp_path: Path) -> None:
    checkout(tmp_path / "project")
    installed = package(tmp_path / "image/site-packages")
    own = tmp_path / "project/src/dmf"
    assert installed.foreign_code(tmp_path / "project") is None
    hidden = provenance.package_hash(own)
    assert installed.foreign_code(tmp_path / "not mounted", hidden) is None
    assert "other code" in installed.foreign_code(tmp_path / "not mounted", "0" * 64)
    (own / "new.py").write_text("x = 1\n")
    assert "build this image" in installed.foreign_code(tmp_path / "project")


@pytest.fixture
def second(tmp_path: Path) -> Path:
    """A copy of this project with other code, without an environment of its own."""
    skipped = shutil.ignore_patterns("__pycache__")
    for name in ("src/dmf", "workflow"):
        shutil.copytree(REPOSITORY / name, tmp_path / name, ignore=skipped)
    for name in ("Snakefile", "params.yaml"):
        shutil.copy(REPOSITORY / name, tmp_path)
    (tmp_path / "src/dmf/other.py").write_text("x = 1\n")
    return tmp_path


def test_the_environment_of_another_checkout_is_refused(second: Path) -> None:
    inherited = ("PYTHONPATH", "DMF_PROJECT", "DMF_CODE")
    done = subprocess.run(
        [BIN / "dmf", "check"],
        cwd=second,
        env={key: value for key, value in os.environ.items() if key not in inherited},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    for part in (str(provenance.PACKAGE), str(second / "src/dmf"), "`make environment`"):
        assert part in done.stdout + done.stderr


def test_a_job_refuses_the_code_of_another_project(
    second: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path_factory.mktemp("work"))
    monkeypatch.setenv("DMF_PROJECT", str(second))
    with pytest.raises(DmfError, match=str(second)):
        app(["split", "phantom", "0", "--parameters", "{}"], standalone_mode=False)
