"""The sections of ``params.yaml``: keys, types, ranges, and the paper's values as defaults."""

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator


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


class ArchiveSource(Settings):
    """One of the paper's sets: downloaded, or taken from a local archive or folder."""

    kind: Literal["busi", "busc", "bus"]
    archive: str | None = None
    mask_threshold: Annotated[int, Field(ge=0, le=254)] = 127


class FolderSource(Settings):
    """Somebody's own images and masks, from a folder or an archive.

    Masks lie in a folder of their own (`masks`) or beside the images with `mask_suffix` added to
    the stem. With two classes everything above `mask_threshold` is foreground; with more, the
    grey values found in `class_values` (background first) are the classes.
    """

    kind: Literal["folder"]
    archive: str
    images: str = "images"
    masks: str | None = "masks"
    mask_suffix: str = ""
    mask_threshold: Annotated[int, Field(ge=0, le=254)] = 127
    class_values: list[Annotated[int, Field(ge=0, le=255)]] = [0, 255]
    licence: str = "not stated"
    citation: str = ""

    @model_validator(mode="after")
    def _masks_can_be_found(self) -> Self:
        if self.masks is None and not self.mask_suffix:
            raise ValueError("give `masks` (a folder) or `mask_suffix` (such as _mask)")
        if len(self.class_values) < 2 or len(set(self.class_values)) != len(self.class_values):
            raise ValueError("class_values needs at least two different grey values")
        return self


Source = Annotated[PhantomSource | ArchiveSource | FolderSource, Field(discriminator="kind")]


class Filter(Settings):
    """The bilateral filter (eq. 26-27), as OpenCV takes it."""

    apply: bool = True
    diameter: Count = 9
    sigma_color: Positive = 75.0
    sigma_space: Positive = 75.0
    order: Literal["before_resize", "after_resize"] = "before_resize"


class Duplicates(Settings):
    """When two images count as near duplicates: aligned, they correlate above the threshold."""

    threshold: Annotated[Number, Field(gt=0, le=1)] = 0.9


class Data(Settings):
    """How images become arrays."""

    image_size: Annotated[int, Field(ge=16, le=1024)] = 128
    filter: Filter = Filter()
    problems: Literal["refuse", "skip"] = "refuse"
    duplicates: Duplicates = Duplicates()


class Split(Settings):
    """How images are divided; seed s gives the split of run s."""

    train: Fraction = 0.70
    validation: Fraction = 0.15
    test: Fraction = 0.15
    kind: Literal["naive", "grouped"] = "naive"
    per_seed: bool = True

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
    """What the tables, figures and verdicts need to be told."""

    confidence: Fraction = 0.95
    margin: Positive = 0.005
    bootstrap: Annotated[int, Field(ge=100)] = 2000
    samples: Count = 5
    qualitative_seed: Annotated[int, Field(ge=0)] = 0
    dpi: Annotated[int, Field(ge=50, le=600)] = 150
    extra_studies: Annotated[str, Field(pattern=_EXTRA_STUDIES)] = "build/{study}"
