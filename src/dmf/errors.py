"""What reaches people as plain text: the one exception, and lines of progress."""

from collections.abc import Callable
from typing import TypeAlias

#: Takes a line of progress, to print it or to keep it.
Log: TypeAlias = Callable[[str], None]


class DmfError(Exception):
    """A failure the user can mend: the text names the file, the value and the remedy.

    The command line prints it without a traceback and exits with status 1.
    """
