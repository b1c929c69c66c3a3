"""The sections of ``params.yaml``: keys, types, ranges, and the paper's values as defaults."""

import re
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    field_validator,
    model_validator,
)


def _number(value: Any) -> Any:
    """Let YAML 1.1 readers pass `1e-3`, which they deliver as text."""
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return value
    return value


Number = Annotated[float, BeforeValidator(_number)]
Positive = Annotated[Number, Field(gt=0)]
Fraction = Annotated[Number, Field(gt=0, lt=1)]
Count = Annotated[int, Field(ge=1)]
ImageSize = Annotated[int, Field(ge=16, le=1024)]
MOST_SEEDS = 100
NAME = r"^[a-z][a-z0-9_]*$"
Name = Annotated[str, Field(pattern=NAME, max_length=100)]


def _slots(value: Any) -> Any:
    if value != "auto" and (type(value) is not int or value < 1):
        raise ValueError(f"{value!r} is neither auto nor a number of 1 or more")
    return value


Slots = Annotated[int | Literal["auto"], BeforeValidator(_slots)]


class Settings(BaseModel):
    """Base of every section: unknown keys are refused, values are not coerced."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class PhantomSource(Settings):
    """A synthetic set, made on the spot by :mod:`dmf.data.phantom`."""

    kind: Literal["phantom"]
    images: Annotated[int, Field(ge=12)] = 200
    size: Annotated[int, Field(ge=32, le=256)] = 128
    seed: Annotated[int, Field(ge=0)] = 0
    malignant_share: Annotated[Number, Field(ge=0, le=1)] = 0.33


class Table(Settings):
    """A CSV in the set, or beside the project, that tells of each image its class and patient.

    `image`, `lesion` and `patient` name its columns; images are named with or without suffix.
    Images of the classes in `ignored` are left out.
    """

    file: str
    image: str = "image"
    lesion: str | None = None
    patient: str | None = None
    ignored: list[str] = []


class Subjects(Settings):
    """Whose images they are. What is not told is unknown, never guessed.

    `patient_pattern` is a regular expression, searched in the name of each image; its group is the
    patient. `frames_per_lesion` says that images numbered 1 to N are so many frames of each lesion;
    it counts where the duplicates that are found agree.
    """

    table: Table | None = None
    patient_pattern: str | None = None
    frames_per_lesion: Annotated[int, Field(ge=2)] | None = None

    @field_validator("patient_pattern")
    @classmethod
    def _has_a_group(cls, pattern: str | None) -> str | None:
        try:
            groups = 1 if pattern is None else re.compile(pattern).groups
        except re.error as error:
            raise ValueError(f"{pattern!r} is no regular expression: {error}") from None
        if groups != 1 and pattern is not None:
            raise ValueError(f"{pattern!r} must have one group, such as ^(\\w+)_")
        return pattern


class ArchiveSource(Subjects):
    """A set of the catalogue: downloaded, or taken from a local archive or folder.

    `kind` is its name in `data/catalogue.yaml`, which knows how it is read; a `mask_threshold` that
    is given goes before the one there.
    """

    kind: Name
    archive: str | None = None
    mask_threshold: Annotated[int, Field(ge=0, le=254)] | None = None


Colour = Annotated[str, Field(pattern=r"^#[0-9a-fA-F]{6}$")]
Value = Annotated[int, Field(ge=0, le=65535)] | Colour
Values = Value | Annotated[list[Value], Field(min_length=1)]


class Reading(Settings):
    """How images and masks are found in a set, paired and read.

    Where: `images` and `masks` are folders, at any depth; `masks: null` means beside the images.
    `class_folders`, in place of `images`, names one folder for each class of image.

    Names: `image_prefix`, `image_suffix`, `mask_prefix` and `mask_suffix` are what the stem of an
    image or a mask has more than the name they share. `leave_out` are patterns of files not to be
    read, matched against the name and the path in the set.

    Masks: without `class_values`, what is brighter than `mask_threshold` is lesion. With them, the
    values of each class in turn, background first: grey values, indices of a palette, or colours as
    "#rrggbb"; a list where a class has several. A value counts if no channel is further away than
    `class_tolerance`. `resize_masks` brings masks of their image's shape, but another size, to its
    size (nearest pixel). A lesion above `largest_lesion`, a share of the image, is a problem.
    `without_lesion` says what an image without a mask, or with an empty one, is.

    Pixels: what is transparent shows `transparent_ground`. `grey_range` are the values that become
    0 and 255 where an image has more than 8 bits: two numbers, or `full`.
    """

    images: str = "images"
    masks: str | None = "masks"
    class_folders: list[str] = []
    image_prefix: str = ""
    image_suffix: str = ""
    mask_prefix: str = ""
    mask_suffix: str = ""
    leave_out: list[str] = []
    mask_threshold: Annotated[int, Field(ge=0, le=254)] = 127
    class_values: Annotated[list[Values], Field(min_length=2, max_length=255)] | None = None
    class_tolerance: Annotated[int, Field(ge=0, le=127)] = 0
    resize_masks: bool = False
    largest_lesion: Annotated[Number, Field(gt=0, le=1)] = 0.75
    without_lesion: Literal["problem", "leave_out"] = "problem"
    transparent_ground: Annotated[int, Field(ge=0, le=255)] = 0
    grey_range: Annotated[list[int], Field(min_length=2, max_length=2)] | Literal["full"] | None = (
        None
    )

    @property
    def classes(self) -> int:
        """How many classes the masks have, background included."""
        return 2 if self.class_values is None else len(self.class_values)

    def values_of_classes(self) -> list[list[int | str]]:
        """Return the values of every class in turn; colours as they are written."""
        return [v if isinstance(v, list) else [v] for v in self.class_values or ()]

    @model_validator(mode="after")
    def _can_be_read(self) -> Self:
        if self.masks is None and not (self.mask_prefix or self.mask_suffix):
            raise ValueError(
                "give `masks` (a folder), or `mask_suffix` (such as _mask) or `mask_prefix`"
            )
        values = [v for of_class in self.values_of_classes() for v in of_class]
        colours = [v.casefold() for v in values if isinstance(v, str)]
        if colours and len(colours) != len(values):
            raise ValueError(
                'class_values are either all grey values (0) or all colours ("#000000")'
            )
        if len({str(v).casefold() for v in values}) != len(values):
            raise ValueError("class_values names a value twice")
        if isinstance(self.grey_range, list) and self.grey_range[0] >= self.grey_range[1]:
            raise ValueError("grey_range is [darkest, brightest], and the first is the smaller")
        return self


class FolderSource(Reading, Subjects):
    """Somebody's own images and masks, from a folder or an archive."""

    kind: Literal["folder"]
    archive: Annotated[str, Field(min_length=1)]
    licence: str = "not stated"
    citation: str = ""


def _sort_of_source(source: Any) -> str:
    kind = source.get("kind") if isinstance(source, dict) else getattr(source, "kind", None)
    return kind if kind in ("phantom", "folder") else "catalogue"


Source = Annotated[
    Annotated[PhantomSource, Tag("phantom")]
    | Annotated[FolderSource, Tag("folder")]
    | Annotated[ArchiveSource, Tag("catalogue")],
    Discriminator(_sort_of_source),
]


class Filter(Settings):
    """The bilateral filter (eq. 26-27), as OpenCV takes it."""

    apply: bool = True
    diameter: Annotated[int, Field(ge=1, le=255)] = 9
    sigma_color: Positive = 75.0
    sigma_space: Positive = 75.0
    order: Literal["before_resize", "after_resize"] = "before_resize"


class Duplicates(Settings):
    """When two images count as near duplicates: aligned, they correlate above the threshold."""

    threshold: Annotated[Number, Field(gt=0, le=1)] = 0.9


class Data(Settings):
    """How images become arrays."""

    image_size: ImageSize = 128
    filter: Filter = Filter()
    problems: Literal["refuse", "skip"] = "refuse"
    duplicates: Duplicates = Duplicates()


class Split(Settings):
    """How images are divided; seed s gives the split of run s.

    `given` takes it from the CSV `file` (id, subset), in whose name {dataset} and {seed} may stand;
    the fractions must then be about those of the file.
    """

    train: Fraction = 0.70
    validation: Fraction = 0.15
    test: Fraction = 0.15
    kind: Literal["naive", "grouped", "given"] = "naive"
    file: str | None = None
    per_seed: bool = True

    def seen_from(self, root: Path) -> Self:
        """Return the same with the path of the file, if there is one, taken from `root`."""
        if self.file is None:
            return self
        return self.model_copy(update={"file": str(root / Path(self.file).expanduser())})

    def path(self, dataset: str, seed: int) -> Path | None:
        """Return the file of the split of one seed, if it is given."""
        if self.file is None:
            return None
        return Path(self.file.replace("{dataset}", dataset).replace("{seed}", str(seed)))

    @model_validator(mode="after")
    def _has_its_file(self) -> Self:
        if (self.kind == "given") != (self.file is not None):
            raise ValueError("kind: given and a file (CSV with columns id, subset) belong together")
        if self.kind == "given" and self.per_seed != ("{seed}" in str(self.file)):
            raise ValueError(
                f"file: {self.file} must have {{seed}} in its name if per_seed is true, else not; "
                "per_seed: false takes one split for every seed"
            )
        return self

    @model_validator(mode="after")
    def _whole(self) -> Self:
        total = self.train + self.validation + self.test
        if abs(total - 1) > 1e-9:
            raise ValueError(
                f"train, validation and test are fractions that must sum to 1, "
                f"but {self.train} + {self.validation} + {self.test} = {total:.6g}"
            )
        return self


class Model(Settings):
    """The U-Net: filters of its down blocks, outermost first; batch-norm momentum as in Keras.

    `skip_connections: false` drops the concatenations, as in the notebook until after the preprint.
    """

    filters: Annotated[list[Count], Field(min_length=1, max_length=6)] = [32, 64, 128, 256]
    batch_norm_momentum: Fraction = 0.99
    skip_connections: bool = True


class Schedule(Settings):
    """The learning rate over the S steps of a training, as a share of `training.learning_rate`.

    constant: 1. linear: 1, then falling to 0 over the last `epochs` epochs.
    polynomial: (1 - s/S) ** `power` at step s from 0.
    """

    kind: Literal["constant", "linear", "polynomial"] = "constant"
    epochs: Count = 30
    power: Positive = 0.9


class Training(Settings):
    """The optimiser and its budget.

    `steps`, where given, replaces `epochs`: training ends after so many batches, in the middle of
    an epoch if need be. `momentum` and `weight_decay` (L2) are those of `sgd`, `adam_epsilon` is
    Adam's. `batches: equal` divides an epoch into as many batches of equal size (give or take one
    image), instead of a short last one. `augmentation` turns every image by a random symmetry of
    the square each time it is drawn: `flips` left-right and top-bottom, `flips_and_turns` quarter
    turns as well.
    """

    epochs: Count = 100
    steps: Count | None = None
    batch_size: Count = 32
    batches: Literal["short_last", "equal"] = "short_last"
    optimizer: Literal["adam", "sgd"] = "adam"
    learning_rate: Positive = 0.001
    schedule: Schedule = Schedule()
    adam_epsilon: Positive = 1e-7
    momentum: Annotated[Number, Field(ge=0, lt=1)] = 0.9
    weight_decay: Annotated[Number, Field(ge=0)] = 0.0
    augmentation: Literal["none", "flips", "flips_and_turns"] = "none"
    precision: Literal["auto", "fp32", "tf32", "bf16"] = "auto"

    @model_validator(mode="after")
    def _belongs_together(self) -> Self:
        if self.optimizer == "adam" and (self.weight_decay or self.momentum != 0.9):
            raise ValueError("momentum and weight_decay are those of sgd; set optimizer: sgd")
        falls = self.schedule.kind == "linear" and self.steps is None
        if falls and self.schedule.epochs > self.epochs:
            raise ValueError(
                f"schedule.epochs ({self.schedule.epochs}) must not exceed epochs ({self.epochs})"
            )
        return self


class Tversky(Settings):
    """Eq. 20: alpha weighs false positives, beta false negatives."""

    alpha: Positive = 0.7
    beta: Positive = 0.3


class Focal(Settings):
    """Eq. 19; `applied_to: precision` is the notebook's variant."""

    gamma: Annotated[Number, Field(ge=0)] = 2.0
    alpha: Positive = 0.25
    applied_to: Literal["pixels", "precision"] = "pixels"


class Losses(Settings):
    """The base losses, and how the region losses are counted.

    `fixed_weights`, one number >= 0 per base loss, serve the configurations with fixed weights;
    they are rescaled to sum to 1. None: equal weights.
    """

    base: Annotated[list[Literal["cross_entropy", "iou", "dice"]], Field(min_length=1)] = [
        "cross_entropy",
        "iou",
        "dice",
    ]
    fixed_weights: list[Annotated[Number, Field(ge=0)]] | None = None
    kind: Literal["soft", "hard"] = "soft"
    reduction: Literal["batch", "image"] = "batch"
    tversky: Tversky = Tversky()
    focal: Focal = Focal()

    @field_validator("base")
    @classmethod
    def _each_once(cls, base: list[str]) -> list[str]:
        if len(set(base)) != len(base):
            raise ValueError("a base loss is named twice")
        return base

    @model_validator(mode="after")
    def _one_weight_per_loss(self) -> Self:
        weights = self.fixed_weights
        if weights is not None and (len(weights) != len(self.base) or not sum(weights) > 0):
            raise ValueError(
                f"fixed_weights = {weights} must be {len(self.base)} numbers, one for each of base "
                f"({', '.join(self.base)}), not all 0"
            )
        return self


class Fusion(Settings):
    """The memory and the statistics that turn it into weights."""

    warmup: Count = 50
    window: Annotated[int, Field(ge=2)] = 150
    median: Literal["true", "released"] = "true"
    detach: bool = True
    prior_update: Literal["every_step", "fixed"] = "every_step"
    smoothing: Fraction = 0.9

    @model_validator(mode="after")
    def _memory_is_long_enough(self) -> Self:
        if self.warmup > self.window:
            raise ValueError(
                f"warmup ({self.warmup}) must not exceed window ({self.window}): the history "
                "would never be long enough to leave the warm-up"
            )
        return self


class Auxiliary(Settings):
    """gamma(t) = gamma0 * exp(-decay * t), t counted in units of `step_batches` batches (eq. 2)."""

    gamma0: Annotated[Number, Field(ge=0)] = 5.0
    decay: Annotated[Number, Field(ge=0)] = 0.05
    step_batches: Count = 100


class Execution(Settings):
    """Where and how to run; never part of a run key or of a result."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    slots: Slots = "auto"
    threads: Count = 1
    checkpoint_seconds: Annotated[Number, Field(ge=0)] = 30.0


# A folder with {study} in it, and {name}, the study's own, where wanted.
_EXTRA_STUDIES = r"^([^{}]|\{name\})*\{study\}([^{}]|\{name\})*$"


class Report(Settings):
    """What the tables, figures and verdicts need to be told.

    Figures are PNG files, and with `pdf` PDF files as well. Results of the first `seen_seeds` had
    been seen before the study's plan was fixed: the report gives the others alone as well.
    """

    confidence: Fraction = 0.95
    margin: Positive = 0.005
    bootstrap: Annotated[int, Field(ge=100)] = 2000
    seen_seeds: Annotated[int, Field(ge=0)] = 0
    samples: Count = 5
    qualitative_seed: Annotated[int, Field(ge=0)] = 0
    dpi: Annotated[int, Field(ge=50, le=600)] = 150
    pdf: bool = True
    extra_studies: Annotated[str, Field(pattern=_EXTRA_STUDIES)] = "build/{study}"
