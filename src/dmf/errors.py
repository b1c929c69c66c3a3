"""The one exception that reaches people as a plain message."""


class DmfError(Exception):
    """A failure the user can mend: the text names the file, the value and the remedy.

    The command line prints it without a traceback and exits with status 1.
    """
