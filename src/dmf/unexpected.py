"""The last net of the command line: what nobody foresaw, in one message instead of a traceback."""

import traceback
from pathlib import Path
from types import TracebackType

from dmf.errors import DmfError
from dmf.files import reason, refusal

_MESSAGE = (
    "This is a fault of the program or a damaged file. Make the file again if you can; please "
    "report the fault with what `dmf --traceback …` shows."
)


def in_words(error: Exception) -> str:
    """Return one message for an error that no step has turned into words.

    It names the file that the system refused or, of other errors, the last one at work.
    """
    if isinstance(error, DmfError):
        return str(error)
    if isinstance(error, OSError):
        if error.filename is not None:
            return str(refusal(Path(error.filename), error, done="read or written"))
        return f"the system refused it: {reason(error)}"
    last = traceback.extract_tb(error.__traceback__)[-1]
    what = f"{type(error).__name__}: {error}".strip().splitlines()[0][:300]
    file = _file_at_work(error.__traceback__)
    where = f"{file}: " if file else ""
    return f"{where}{what} ({Path(last.filename).name}, line {last.lineno}). {_MESSAGE}"


def _file_at_work(trace: TracebackType | None) -> Path | None:
    """Return the path that the innermost function with one was given, or named itself."""
    found = None
    while trace is not None:
        paths = (value for value in trace.tb_frame.f_locals.values() if isinstance(value, Path))
        found = next((path for path in paths if path.is_file()), found)
        trace = trace.tb_next
    return found
