"""What the JSON files of a study must hold: one typed reader for each kind, with bounds.

A file may hold more than is named here, and may lack what older ones lack; what is there has the
type and the range that its readers rely on. Files come from other machines and through other
hands, so that nothing of them is believed unread.
"""

from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from dmf.errors import DmfError
from dmf.files import read_json
from dmf.validation import explain

Text = Annotated[str, Field(max_length=10_000)]
Word = Annotated[str, Field(max_length=200, pattern=r"^[\w.+-]+$")]
Hash = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Number = Annotated[int, Field(ge=0, le=10**9)]
Scores = dict[Annotated[str, Field(pattern=r"^[a-z0-9_]{1,100}$")], float]


class Record(BaseModel):
    """Base of every record; `remedy` says how a damaged one is made again."""

    model_config = ConfigDict(extra="allow", strict=True, allow_inf_nan=False)
    remedy: ClassVar[str]

    @classmethod
    def read(cls, path: Path) -> dict[str, Any]:
        """Return the record as it stands in the file.

        Raises DmfError naming the file and the key if it is missing, damaged or out of bounds.
        """
        value: dict[str, Any] = read_json(path)
        try:
            cls.model_validate(value)
        except ValidationError as error:
            raise DmfError(f"{path} is damaged:\n{explain(error, cls)}\n{cls.remedy}") from None
        return value


class Evaluation(Record):
    """The scores of one evaluation, by subset."""

    epoch: Number | None = None
    train: Scores = {}
    validation: Scores = {}
    test: Scores = {}


class Place(Record):
    """Where a run diverged."""

    epoch: Number
    batch: Number
    loss: Text


class Outcome(Record):
    """`metrics.json`: how a run ended, and its scores."""

    remedy = "Delete its folder and train the run again: run the same `snakemake` command."

    status: Literal["complete", "diverged"]
    epochs: Number = 0
    synthetic: bool = False
    last: Evaluation | None = None
    best: Evaluation | None = None
    settled: Evaluation | None = None
    recalibrated: Evaluation | None = None
    diverged: Place | None = None


class Device(Record):
    """What a run was computed on."""

    type: Text
    name: Text


class RunRecord(Record):
    """`run.json`: where a run comes from, the hashes of its files, and its outcome."""

    remedy = Outcome.remedy

    key: Annotated[str, Field(min_length=1, max_length=200)]
    parameters: dict[str, Any] = {}
    hashes: dict[Word, Text] = {}
    commit: Text | None = None
    dirty: bool | None = None
    versions: dict[Word, Text] = {}
    device: Device | None = None
    precision: Text | None = None
    devices: list[Device] = []
    """Where a run was continued on another device: all, in their order, the last as above."""
    ended: Annotated[float, Field(ge=0, le=1e12)] | None = None
    """When, in seconds since 1970; older records do not say it."""
    files: dict[Word, Text]
    outcome: Outcome


def trained_on(run: dict[str, Any], form: str = "{name}") -> str | None:
    """Return the devices of a run's record, in order, or None if it names none."""
    devices = run.get("devices") or [run.get("device")]
    names = [form.format(**device) for device in devices if device]
    return ", then ".join(dict.fromkeys(names)) or None


class Duplicates(Record):
    """What a set's description says of its duplicates."""

    method: Text
    threshold: float
    groups: Number
    images: Number
    groups_of_mixed_classes: Number


class Problem(Record):
    """An image that could not be used."""

    file: Text
    detail: Text


class Description(Record):
    """`data/raw/<set>/manifest.json`: source, licence, hashes and problems of a set."""

    remedy = "Delete the set's folder in data/raw and download it again."

    images: Number | None = None
    classes: Annotated[int, Field(ge=2, le=256)] | None = None
    synthetic: bool | None = None
    licence: Text | None = None
    citation: Text | None = None
    address: Text | None = None
    archive_sha256: Text | None = None
    table_sha256: Text | None = None
    contents_sha256: Text | None = None
    ignored: dict[Text, Number] = {}
    duplicates: Duplicates | None = None
    problems: list[Problem] = []


class ArraysDescription(Record):
    """`data/filtered/<set>.json`: what the arrays beside it hold."""

    remedy = "Delete it and run the filter step again."

    sha256: Hash
    images: Number | None = None
    classes: Annotated[int, Field(ge=2, le=256)] | None = None
    synthetic: bool | None = None
    parameters: dict[str, Any] = {}
