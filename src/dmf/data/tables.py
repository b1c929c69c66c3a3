"""Tables that people and spreadsheets write: CSV with any separator, with or without a BOM."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from dmf.errors import DmfError

SEPARATORS = ",;\t|"


def read_table(path: Path, columns: Sequence[str]) -> list[dict[str, str]]:
    """Return the rows of a CSV file, of which `columns` alone, stripped of spaces around them.

    The separator is the one of comma, semicolon, tab and bar with which the header has all
    `columns`. UTF-8 and, where a BOM says so, UTF-16 are read. Raises DmfError, with the remedy, if
    the file is missing, in another encoding, lacks a column, or has rows of another length.
    """
    try:
        content = path.read_bytes()
        encoding = "utf-16" if content[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
        text = content.decode(encoding)
    except OSError as error:
        raise DmfError(f"{path} cannot be read ({error.strerror}). Correct the path.") from None
    except UnicodeDecodeError:
        raise DmfError(f"{path} is not UTF-8. Save it as CSV in UTF-8.") from None
    header: list[str] = []
    for separator in SEPARATORS:
        try:
            rows = list(csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True))
        except csv.Error:
            continue
        names = [name.strip() for name in rows[0]] if rows else []
        if set(columns) <= set(names):
            return _rows(path, names, rows[1:], columns)
        header = max(header, names, key=len)
    raise DmfError(
        f"{path} must have a header with the columns {', '.join(columns)}; it has "
        f"{', '.join(header) or 'none'}. Name them so, or name its columns in the settings."
    )


def _rows(
    path: Path, names: list[str], rows: list[list[str]], columns: Sequence[str]
) -> list[dict[str, str]]:
    twice = [column for column in columns if names.count(column) > 1]
    if twice:
        raise DmfError(f"{path}: the column {twice[0]} is there twice. Remove or rename one.")
    found = []
    for number, row in enumerate(rows, start=2):
        if not any(cell.strip() for cell in row):
            continue
        if len(row) != len(names):
            raise DmfError(
                f"{path}, line {number}: {len(row)} cells, but the header has {len(names)}. "
                "Mend the line."
            )
        cells = dict(zip(names, row, strict=True))
        found.append({column: cells[column].strip() for column in columns})
    return found
