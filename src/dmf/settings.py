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
Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]


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
    """The U-Net: filters of its down blocks, outermost first; batch-norm momentum as in Keras."""

    filters: Annotated[list[Count], Field(min_length=1, max_length=6)] = [32, 64, 128, 256]
    batch_norm_momentum: Fraction = 0.99


class Training(Settings):
    """The optimiser and its budget."""

    epochs: Count = 100
    batch_size: Count = 32
    learning_rate: Positive = 0.001
    adam_epsilon: Positive = 1e-7
    precision: Literal["auto", "fp32", "tf32", "bf16"] = "auto"


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
    """The base losses, and how the region losses are counted."""

    base: Annotated[list[Literal["cross_entropy", "iou", "dice"]], Field(min_length=1)] = [
        "cross_entropy",
        "iou",
        "dice",
    ]
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
    slots: Count = 2
    threads: Count = 1
    checkpoint_epochs: Count = 10


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
