"""Validation errors of settings in words: the key, the value, and what is allowed."""

import difflib
import re
import reprlib
from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel, ValidationError

from dmf.settings import ArchiveSource, FolderSource, PhantomSource

SOURCES = (PhantomSource, ArchiveSource, FolderSource)
MOST_PROBLEMS = 20

# YAML's aliases make values of a few bytes whose text would fill the disk.
_SHORT = reprlib.Repr()
_SHORT.maxlevel, _SHORT.maxdict, _SHORT.maxlist = 3, 6, 10
_SHORT.maxstring = _SHORT.maxother = 200


def explain(error: ValidationError, model: type[BaseModel]) -> str:
    """Return a line `  key: what is wrong` for each problem, with a suggestion for typos."""
    problems = error.errors()
    lines = [f"  {_line(problem, model)}" for problem in problems[:MOST_PROBLEMS]]
    if len(problems) > MOST_PROBLEMS:
        lines.append(f"  … and {len(problems) - MOST_PROBLEMS} more")
    return "\n".join(lines)


def _line(problem: Any, model: type[BaseModel]) -> str:
    location = [str(part) for part in problem["loc"]]
    # Tags of discriminated unions are part of the location, but not of the file.
    if len(location) > 2 and location[0] == "datasets":
        del location[2:3]
    key = ".".join(location)
    match problem["type"]:
        case "extra_forbidden":
            allowed = _allowed_keys(model, location[:-1])
            close = difflib.get_close_matches(location[-1], allowed, n=1)
            hint = f" Did you mean {close[0]!r}?" if close else ""
            return f"{key}: unknown key.{hint} Allowed here: {', '.join(allowed)}"
        case "value_error" | "assertion_error":
            reason = problem["ctx"]["error"]
            return f"{key}: {reason}" if key else str(reason)
        case "missing":
            return f"{key}: missing; this key is needed"
    message = re.sub(r"^Input s", "s", problem["msg"])
    return f"{key} = {_SHORT.repr(problem['input'])}: {message}"


def _allowed_keys(model: type[BaseModel], location: Sequence[str]) -> list[str]:
    section: Any = model
    for index, key in enumerate(location):
        if index == 1 and location[0] == "datasets":
            return sorted({field for source in SOURCES for field in source.model_fields})
        section = _by_key(section)[key].annotation
    return list(_by_key(section))


def _by_key(section: Any) -> dict[str, Any]:
    """Return the fields of a section by their names in the file."""
    return {field.alias or name: field for name, field in section.model_fields.items()}
