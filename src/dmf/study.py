"""``params.yaml`` as a typed, validated object, and what each step of the workflow takes from it.

Its sections are in `dmf.settings`, the names of configurations in `dmf.configurations`, its places
in `dmf.layout`. No formula is here: a change of this file never makes a training stale by itself,
only changed values do.

Overlays name a study: `config/reduced.yaml` and `config/hard.yaml` over `params.yaml` are the study
`reduced_hard`, in `build/reduced_hard`; `params.yaml` alone is `paper`, in the project's folder. A
name in `params.yaml` goes in front of these.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, ValidationError, field_validator, model_validator

from dmf.configurations import Configuration, parse_configuration
from dmf.data.catalogue import entries
from dmf.errors import DmfError
from dmf.settings import (
    MOST_SEEDS,
    NAME,
    ArchiveSource,
    Auxiliary,
    Data,
    Duplicates,
    Execution,
    Filter,
    Focal,
    FolderSource,
    Fusion,
    ImageSize,
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
from dmf.validation import explain
from dmf.yaml_files import read_yaml

BASE = "params.yaml"
REBUILT = Path("build/published")  # whatever is no published study is removed from it
PAPER_DATASETS = ("busi", "busc", "bus")

# The notebook's four departures from the paper, as `preset: released` sets them.
RELEASED: dict[str, Any] = {
    "losses": {"kind": "hard", "focal": {"applied_to": "precision"}},
    "fusion": {"median": "released", "detach": False},
}


class Grid(Settings):
    """Which runs make up the study."""

    name: Name
    workdir: Annotated[str, Field(min_length=1, pattern=r"^[^\x00-\x1f\x7f]+$")]
    datasets: Annotated[list[Name], Field(min_length=1)]
    configurations: Annotated[list[str], Field(min_length=1)]
    seeds: Annotated[int, Field(ge=1, le=MOST_SEEDS)] = 10
    evaluate_on: Annotated[list[Name], Field(default_factory=list)]
    """Sets on which every run is scored that was trained on another."""

    @field_validator("workdir")
    @classmethod
    def _not_rebuilt(cls, workdir: str) -> str:
        if REBUILT in (place := Path(workdir), *place.parents):
            raise ValueError(
                f"{REBUILT} holds the rebuilt pages of published studies, and is removed with "
                "them; give the overlay's file another name"
            )
        return workdir

    @field_validator("configurations")
    @classmethod
    def _canonical(cls, names: list[str]) -> list[str]:
        return [parse_configuration(name).name for name in names]

    @field_validator("datasets", "configurations", "evaluate_on")
    @classmethod
    def _each_once(cls, names: list[str]) -> list[str]:
        twice = {name for name in names if names.count(name) > 1}
        if twice:
            raise ValueError(f"named twice: {', '.join(sorted(twice))}")
        return names


# What the paper's study has where a smaller one has less: the defaults.
PAPER = {
    "epochs": Training().epochs,
    "image_size": Data().image_size,
    "filters": Model().filters,
    "seeds": Grid.model_fields["seeds"].default,
}


class DownloadParameters(Settings):
    """What the download step needs."""

    source: Source
    problems: Literal["refuse", "skip"]
    duplicates: Duplicates


class FilterParameters(Settings):
    """What the filter step needs."""

    image_size: ImageSize
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
    steps: int | None = None
    """Where given, the length of a training in place of the epochs."""
    image_size: int
    filters: list[int]
    auxiliary: Auxiliary
    changed: list[str]
    """Settings that are not the paper's, as ``key = value``: sizes, split and preset aside."""
    report: Report


class Study(Settings):
    """The whole of ``params.yaml``."""

    grid: Annotated[Grid, Field(alias="study")]
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
        for key in ("datasets", "evaluate_on"):
            for name in getattr(self.grid, key):
                if name not in self.datasets:
                    raise ValueError(
                        f"study.{key} names {name!r}, which `datasets` does not describe. "
                        f"Described: {', '.join(self.datasets)}"
                    )
        for name in self.grid.evaluate_on:
            if self.grid.datasets == [name]:
                raise ValueError(
                    f"study.evaluate_on names {name!r}, the only set that is trained on; no run is "
                    "left to be scored on it. Name another set, or train on a second."
                )
        for name, source in self.datasets.items():
            if isinstance(source, ArchiveSource) and source.kind not in entries():
                raise ValueError(
                    f"datasets.{name}.kind = {source.kind!r} is neither phantom nor folder nor a "
                    f"set of the catalogue: {', '.join(entries())}"
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
    def from_mapping(
        cls,
        values: Mapping[str, Any],
        *,
        overlays: Sequence[Path] = (),
        base: Path = Path(BASE),
        typed: Mapping[str, Any] | None = None,
    ) -> Self:
        """Validate ``values`` of ``base`` with ``overlays`` merged in, which name the study.

        ``typed`` are those of Snakemake's `--config`, merged in as well. Raises DmfError with the
        files, the key, the value and what is allowed.
        """
        own = [path for path in overlays if path.resolve() != base.resolve()]
        settings = _named(values, own, typed or {})
        if settings.get("preset") == "released":
            _refuse_contradictions(own, typed or {})
            settings = _merge(settings, RELEASED)
        try:
            return cls.model_validate(settings)
        except ValidationError as error:
            origin = " + ".join(map(str, (base, *overlays, *(["--config"] if typed else []))))
            problems = explain(error, cls)
            wrong = {problem["loc"][0] for problem in error.errors() if problem["loc"]}
            if wrong & set(typed or ()):
                problems += (
                    "\n  --config hands over text and whole sections: write the values into a file "
                    "instead, and name it with --configfile."
                )
            raise DmfError(f"{origin} is not a valid study:\n{problems}") from None

    @classmethod
    def load(cls, path: Path = Path(BASE), *overlays: Path) -> Self:
        """Read ``path``, lay the overlays over it (lists replace, mappings merge), validate."""
        values: dict[str, Any] = {}
        for file in (path, *overlays):
            values = _merge(values, read_settings(file))
        return cls.from_mapping(values, overlays=overlays, base=path)

    @property
    def seeds(self) -> range:
        """The seeds of the study, 0 to seeds - 1."""
        return range(self.grid.seeds)

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
            grid=self.grid,
            kinds={name: self.datasets[name].kind for name in self.grid.datasets},
            preset=self.preset,
            split=self.split,
            epochs=self.training.epochs,
            steps=self.training.steps,
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
        known = list(_lines(RELEASED)) if self.preset == "released" else []
        return [line for line in _lines(changed) if line not in known]


def _named(
    values: Mapping[str, Any], overlays: Sequence[Path], typed: Mapping[str, Any]
) -> dict[str, Any]:
    """Return ``values`` with the name, the folder and the neighbours of the study that they are.

    Raises DmfError if the name of an overlay's file cannot name a study.
    """
    own = [typed, *(read_settings(path) for path in overlays)]

    def of_base(key: str) -> str | None:
        return None if any(_of_study(each, key) for each in own) else _of_study(values, key)

    named = all(any(_of_study(each, key) for each in own) for key in ("name", "workdir"))
    for path in overlays:
        if not named and not re.fullmatch(NAME, path.stem):
            raise DmfError(
                f"{path}: an overlay's file names its study, and {path.stem!r} is no name. Use "
                "small letters, digits and _, a letter first."
            )
    first, place = of_base("name"), of_base("workdir")
    if not overlays:
        study = {"name": "paper", "workdir": "."}
        neighbours = f"build/{first}_{{study}}" if first else "build/{study}"
        return _merge({"study": study, "report": {"extra_studies": neighbours}}, values)
    name = "_".join([*([first] if first else []), *(path.stem for path in overlays)])
    study = {"name": name, "workdir": str(Path(place or "", "build", name))}
    # Beside it lie the studies that are named as it is and one overlay more.
    below = {"study": study, "report": {"extra_studies": f"../{name}_{{study}}"}}
    above = {key: study[key] for key, given in (("name", first), ("workdir", place)) if given}
    return _merge(_merge(below, values), {"study": above} if above else {})


def _of_study(settings: Mapping[str, Any], key: str) -> str | None:
    study = settings.get("study")
    value = study.get(key) if isinstance(study, Mapping) else None
    return value if isinstance(value, str) else None


def _refuse_contradictions(overlays: Sequence[Path], typed: Mapping[str, Any]) -> None:
    """Raise DmfError where a setting is given that `preset: released` sets to another value."""
    released = dict(line.split(" = ") for line in _lines(RELEASED))
    given = [*((str(path), read_settings(path)) for path in overlays), ("--config", dict(typed))]
    for origin, settings in given:
        for line in _lines(settings):
            key, _, value = line.partition(" = ")
            if released.get(key, value) != value:
                raise DmfError(
                    f"{origin}: {line} contradicts `preset: released`, which sets it to "
                    f"{released[key]}. Leave out one of the two; without the preset each of its "
                    "four settings can be given by itself."
                )


def _lines(values: dict[str, Any], prefix: str = "") -> Iterator[str]:
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _lines(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key} = {value}"


def read_settings(path: Path) -> dict[str, Any]:
    """Return the sections of ``params.yaml`` or an overlay; raises DmfError if it holds none."""
    elsewhere = "Run from the project's root, or name the file with --params."
    values = read_yaml(path, *([] if path.exists() else [elsewhere]))
    if not isinstance(values, dict):
        raise DmfError(f"{path} must hold a mapping of sections, not {type(values).__name__}")
    return values


def _merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for key, value in above.items():
        if isinstance(value, dict) and isinstance(merged.get(key), dict):
            merged[key] = _merge(merged[key], value)
        else:
            merged[key] = value
    return merged
