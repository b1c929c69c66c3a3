"""The data sets known by name: where they are, what they hold, their licence, how to cite them.

They are entries of `catalogue.yaml`; no other file knows of any of them.
"""

from functools import cache
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import Field

from dmf.errors import DmfError
from dmf.settings import ArchiveSource, FolderSource, Reading, Settings, Subjects

FILE = Path(__file__).with_suffix(".yaml")


class Web(Settings):
    """An address of an archive, with its SHA-256 where the publisher or others state it."""

    address: str
    sha256: str | None = None

    def __str__(self) -> str:
        return self.address


class Kaggle(Settings):
    """A data set at Kaggle, fetched by its own client where credentials are there."""

    kaggle: str

    def __str__(self) -> str:
        return f"Kaggle {self.kaggle}"


class Entry(Settings):
    """What is known of a set: where it is, what it holds, how to cite it and how to read it."""

    title: str
    page: str
    licence: str
    citation: str
    images: int
    places: list[Web | Kaggle]
    notes: Annotated[list[str], Field(default_factory=list)]
    reader: Reading = Reading()
    subjects: Subjects = Subjects()


@cache
def entries() -> dict[str, Entry]:
    """Return every set of the catalogue by its name."""
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    contents = yaml.load(FILE.read_text(encoding="utf-8"), loader)
    return {name: Entry.model_validate(values) for name, values in contents.items()}


def reading_of(source: ArchiveSource | FolderSource) -> Reading:
    """Return the settings by which the images and masks of a source are found and read.

    Raises DmfError if a threshold is given for masks that are told by their values.
    """
    if isinstance(source, FolderSource):
        return source
    reader = entries()[source.kind].reader
    if source.mask_threshold is None:
        return reader
    if reader.class_values is not None:
        raise DmfError(
            f"mask_threshold {source.mask_threshold}: the masks of {source.kind} are told by their "
            "values, not by a threshold. Leave it out, or describe the set with kind: folder."
        )
    return reader.model_copy(update={"mask_threshold": source.mask_threshold})


def subjects_of(source: ArchiveSource | FolderSource) -> Subjects:
    """Return whose images a source holds: what the settings say, else what the catalogue says."""
    told = source.model_dump(include=set(Subjects.model_fields), exclude_none=True)
    known: dict[str, Any] = {}
    if isinstance(source, ArchiveSource):
        known = entries()[source.kind].subjects.model_dump(exclude_none=True)
    return Subjects.model_validate(known | told)
