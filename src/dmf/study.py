"""``params.yaml`` as a typed, validated object, and what each step of the workflow takes from it.

The command line, Snakemake and the tests read the study through this module alone; its sections
are in `dmf.settings`. No formula is here: a change of this file never makes a training stale by
itself, only changed values do.
"""

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import Field, ValidationError, field_validator, model_validator

from dmf.errors import DmfError
from dmf.settings import (
    ArchiveSource,
    Auxiliary,
    Data,
    Duplicates,
    Execution,
    Filter,
    Focal,
    FolderSource,
    Fusion,
    Losses,
    Model,
    Name,
    PhantomSource,
    Report,
    Settings,
    Source,
    Split,
    Training,
    Tversky,
)

AUXILIARIES = ("none", "tversky", "focal", "cb_dice")
PAPER_WEIGHTINGS = ("variance", "mad", "bayesian")
EXTRA_WEIGHTINGS = ("fixed", "random", "softadapt", "cov")
SMOOTHED = "_ema"
PAPER_DATASETS = ("busi", "busc", "bus")

# The notebook's four departures from the paper, as `preset: released` sets them.
RELEASED = {
    ("losses", "kind"): "hard",
    ("losses", "focal", "applied_to"): "precision",
    ("fusion", "median"): "released",
    ("fusion", "detach"): False,
}


class Grid(Settings):
    """Which runs make up the study."""

    name: Name = "paper"
    workdir: str = "."
    datasets: Annotated[list[Name], Field(min_length=1)]
    configurations: Annotated[list[str], Field(min_length=1)]
    seeds: Annotated[int, Field(ge=1, le=100)] = 10

    @field_validator("datasets", "configurations")
    @classmethod
    def _each_once(cls, names: list[str]) -> list[str]:
        twice = {name for name in names if names.count(name) > 1}
        if twice:
            raise ValueError(f"named twice: {', '.join(sorted(twice))}")
        return names

    @field_validator("configurations")
    @classmethod
    def _known(cls, names: list[str]) -> list[str]:
        configurations = [parse_configuration(name) for name in names]
        if {"fixed", "none-fixed"} <= set(names):
            raise ValueError("`fixed` is short for `none-fixed`: keep one of the two")
        assert len(configurations) == len(names)
        return names


class Configuration(Settings):
    """One way to weight the losses: `<auxiliary>-<weighting>`, `fixed` or `cross_entropy`."""

    name: str
    auxiliary: Literal["none", "tversky", "focal", "cb_dice"]
    weighting: Literal["variance", "mad", "bayesian", "fixed", "random", "softadapt", "cov"]
    smoothed: bool = False
    only_cross_entropy: bool = False


def parse_configuration(name: str) -> Configuration:
    """Return the configuration that ``name`` stands for; raises ValueError for an unknown name.

    `_ema` after a weighting (`cb_dice-variance_ema`) smooths its weights with an exponential moving
    average. `cross_entropy` trains with that loss alone.
    """
    if name == "cross_entropy":
        return Configuration(
            name=name, auxiliary="none", weighting="fixed", only_cross_entropy=True
        )
    auxiliary, _, weighting = ("none-fixed" if name == "fixed" else name).partition("-")
    smoothed = weighting.endswith(SMOOTHED)
    weighting = weighting.removesuffix(SMOOTHED)
    if (
        auxiliary not in AUXILIARIES
        or weighting not in PAPER_WEIGHTINGS + EXTRA_WEIGHTINGS
        or (smoothed and weighting == "fixed")
    ):
        close = difflib.get_close_matches(name, known_configurations(), n=1)
        raise ValueError(
            f"unknown configuration {name!r}"
            + (f" (did you mean {close[0]!r}?)" if close else "")
            + f". Allowed: fixed, cross_entropy, or <auxiliary>-<weighting> with auxiliary one of "
            f"{', '.join(AUXILIARIES)} and weighting one of "
            f"{', '.join(PAPER_WEIGHTINGS + EXTRA_WEIGHTINGS)}, each but fixed also with {SMOOTHED}"
        )
    return Configuration.model_validate(
        {"name": name, "auxiliary": auxiliary, "weighting": weighting, "smoothed": smoothed}
    )


def known_configurations() -> list[str]:
    """Return every name :func:`parse_configuration` accepts."""
    weightings = [*PAPER_WEIGHTINGS, *EXTRA_WEIGHTINGS]
    weightings += [w + SMOOTHED for w in weightings if w != "fixed"]
    return ["fixed", "cross_entropy", *(f"{a}-{w}" for a in AUXILIARIES for w in weightings)]


def paper_configurations() -> list[str]:
    """Return the paper's 13 configurations in the order of its tables."""
    order = ("tversky", "focal", "cb_dice", "none")
    return [*(f"{a}-{w}" for a in order for w in PAPER_WEIGHTINGS), "fixed"]


class DownloadParameters(Settings):
    """What the download step needs."""

    source: Source
    problems: Literal["refuse", "skip"]
    duplicates: Duplicates


class FilterParameters(Settings):
    """What the filter step needs."""

    image_size: int
    filter: Filter


class RunParameters(Settings):
    """Everything that shapes one training but the data, the seed and the code.

    What a configuration does not use is left out, so that changing the focal loss retrains the
    focal runs alone.
    """

    configuration: Configuration
    model: Model
    training: Training
    base: list[str]
    kind: Literal["soft", "hard"]
    reduction: Literal["batch", "image"]
    fixed_weights: list[float] | None = None
    tversky: Tversky | None = None
    focal: Focal | None = None
    fusion: Fusion | None = None
    auxiliary: Auxiliary | None = None


class ReportParameters(Settings):
    """What aggregation, tables, figures and verdicts need."""

    grid: Grid
    kinds: dict[str, str]
    preset: Literal["paper", "released"]
    split: Split
    epochs: int
    image_size: int
    filters: list[int]
    auxiliary: Auxiliary
    changed: list[str]
    """Settings that are not the paper's, as ``key = value``: sizes, split and preset aside."""
    report: Report


class Study(Settings):
    """The whole of ``params.yaml``."""

    study: Grid
    preset: Literal["paper", "released"] = "paper"
    datasets: dict[Name, Source]
    data: Data = Data()
    split: Split = Split()
    model: Model = Model()
    training: Training = Training()
    losses: Losses = Losses()
    fusion: Fusion = Fusion()
    auxiliary: Auxiliary = Auxiliary()
    execution: Execution = Execution()
    report: Report = Report()

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        for name in self.study.datasets:
            if name not in self.datasets:
                raise ValueError(
                    f"study.datasets names {name!r}, which `datasets` does not describe. "
                    f"Described: {', '.join(self.datasets)}"
                )
        halvings = 2 ** len(self.model.filters)
        if self.data.image_size % halvings:
            raise ValueError(
                f"data.image_size = {self.data.image_size} cannot be halved "
                f"{len(self.model.filters)} times (once per entry of model.filters); "
                f"use a multiple of {halvings}"
            )
        return self

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any], *, origin: str = "params.yaml") -> Self:
        """Validate ``values``; raises DmfError with the key, the value and what is allowed."""
        settings: dict[str, Any] = deepcopy(dict(values))
        if settings.get("preset") == "released":
            for (*path, last), value in RELEASED.items():
                section = settings
                for key in path:
                    section = section.setdefault(key, {})
                section[last] = value
        try:
            return cls.model_validate(settings)
        except ValidationError as error:
            raise DmfError(_explain(error, origin)) from None

    @classmethod
    def load(cls, path: Path = Path("params.yaml"), *overlays: Path) -> Self:
        """Read ``path``, lay the overlays over it (lists replace, mappings merge), validate."""
        values: dict[str, Any] = {}
        for file in (path, *overlays):
            values = _merge(values, _read_yaml(file))
        return cls.from_mapping(values, origin=" + ".join(map(str, (path, *overlays))))

    @property
    def seeds(self) -> range:
        """The seeds of the study, 0 to seeds - 1."""
        return range(self.study.seeds)

    def source(self, dataset: str) -> PhantomSource | ArchiveSource | FolderSource:
        """Return where ``dataset`` comes from; raises DmfError for an unknown name."""
        if dataset not in self.datasets:
            raise DmfError(
                f"unknown dataset {dataset!r}. Described in params.yaml: {', '.join(self.datasets)}"
            )
        return self.datasets[dataset]

    def download_parameters(self, dataset: str) -> DownloadParameters:
        """Return what the download of ``dataset`` needs."""
        return DownloadParameters(
            source=self.source(dataset),
            problems=self.data.problems,
            duplicates=self.data.duplicates,
        )

    def filter_parameters(self) -> FilterParameters:
        """Return what the filter step needs."""
        return FilterParameters(image_size=self.data.image_size, filter=self.data.filter)

    def run_parameters(self, name: str) -> RunParameters:
        """Return what shapes a training of configuration ``name``; raises DmfError if unknown."""
        try:
            configuration = parse_configuration(name)
        except ValueError as error:
            raise DmfError(str(error)) from None
        alone = configuration.only_cross_entropy
        adaptive = configuration.weighting != "fixed"
        return RunParameters(
            configuration=configuration,
            model=self.model,
            training=self.training,
            base=["cross_entropy"] if alone else list(self.losses.base),
            kind=self.losses.kind,
            reduction=self.losses.reduction,
            fixed_weights=None if alone or adaptive else self.losses.fixed_weights,
            tversky=self.losses.tversky if configuration.auxiliary == "tversky" else None,
            focal=self.losses.focal if configuration.auxiliary == "focal" else None,
            fusion=self.fusion if adaptive else None,
            auxiliary=self.auxiliary if configuration.auxiliary != "none" else None,
        )

    def report_parameters(self) -> ReportParameters:
        """Return what aggregation and the report need."""
        return ReportParameters(
            grid=self.study,
            kinds={name: self.datasets[name].kind for name in self.study.datasets},
            preset=self.preset,
            split=self.split,
            epochs=self.training.epochs,
            image_size=self.data.image_size,
            filters=self.model.filters,
            auxiliary=self.auxiliary,
            changed=self._changed(),
            report=self.report,
        )

    def _changed(self) -> list[str]:
        changed = self.model_dump(
            include={"data", "model", "training", "losses", "fusion", "auxiliary"},
            exclude={
                "data": {"image_size", "problems", "duplicates"},
                "model": {"filters"},
                "training": {"epochs", "precision"},
            },
            exclude_defaults=True,
        )
        preset = RELEASED if self.preset == "released" else {}
        known = {f"{'.'.join(path)} = {value}" for path, value in preset.items()}
        return [line for line in _lines(changed) if line not in known]


def run_folder(dataset: str, configuration: str, seed: int) -> Path:
    """Return the folder of one run, relative to the study's working directory."""
    return Path("models") / dataset / configuration / f"seed-{seed:02d}"


def split_file(dataset: str, seed: int) -> Path:
    """Return the split of one seed, relative to the study's working directory."""
    return Path("data/splits") / dataset / f"seed-{seed:02d}.csv"


def _lines(values: dict[str, Any], prefix: str = "") -> Iterator[str]:
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _lines(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key} = {value}"


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DmfError(
            f"{path} cannot be read ({error.strerror}). Run from the project's root, "
            "or name the file with --params."
        ) from None
    except yaml.YAMLError as error:
        raise DmfError(f"{path} is not valid YAML: {error}") from None
    if not isinstance(values, dict):
        raise DmfError(f"{path} must hold a mapping of sections, not {type(values).__name__}")
    return values


def _merge(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for key, value in above.items():
        if isinstance(value, dict) and isinstance(merged.get(key), dict):
            merged[key] = _merge(merged[key], value)
        else:
            merged[key] = value
    return merged


def _explain(error: ValidationError, origin: str) -> str:
    """Turn a validation error into lines of `key: what is wrong`, with a suggestion for typos."""
    lines = []
    for problem in error.errors():
        # Tags of discriminated unions are part of the location, but not of the file.
        location = [str(part) for part in problem["loc"]]
        if len(location) > 2 and location[0] == "datasets":
            del location[2:3]
        key = ".".join(location)
        if problem["type"] == "extra_forbidden":
            allowed = _allowed_keys(location[:-1])
            close = difflib.get_close_matches(location[-1], allowed, n=1)
            hint = f" Did you mean {close[0]!r}?" if close else ""
            lines.append(f"{key}: unknown key.{hint} Allowed here: {', '.join(allowed)}")
        elif problem["type"] in ("value_error", "assertion_error"):
            lines.append(
                f"{key}: {problem['ctx']['error']}" if key else f"{problem['ctx']['error']}"
            )
        elif problem["type"] == "missing":
            lines.append(f"{key}: missing; this key is required")
        else:
            lines.append(f"{key} = {problem['input']!r}: {_lower(problem['msg'])}")
    return f"{origin} is not a valid study:\n" + "\n".join(f"  {line}" for line in lines)


def _lower(message: str) -> str:
    return re.sub(r"^Input s", "s", message)


def _allowed_keys(location: Sequence[str]) -> list[str]:
    section: Any = Study
    for index, key in enumerate(location):
        if index == 1 and location[0] == "datasets":
            kinds = (PhantomSource, ArchiveSource, FolderSource)
            return sorted({field for kind in kinds for field in kind.model_fields})
        section = section.model_fields[key].annotation
    return list(section.model_fields)
