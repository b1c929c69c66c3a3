"""params.yaml as a typed object: what it says, what it refuses, and how."""

import os
from pathlib import Path
from typing import Any

import pytest
import yaml

from dmf.configurations import paper_configurations
from dmf.errors import DmfError
from dmf.study import PAPER, RELEASED, Study

from conftest import REPOSITORY, TINY, tiny


def shipped_params() -> dict[str, Any]:
    values: dict[str, Any] = yaml.safe_load((REPOSITORY / "params.yaml").read_text())
    return values


def test_params_yaml_is_the_papers_study() -> None:
    study = Study.load(REPOSITORY / "params.yaml")
    assert study.grid.datasets == ["busi", "busc", "bus"]
    assert study.grid.configurations == paper_configurations()
    assert len(paper_configurations()) == 13
    assert len(study.seeds) == 10
    assert {
        "epochs": study.training.epochs,
        "image_size": study.data.image_size,
        "filters": study.model.filters,
        "seeds": study.grid.seeds,
    } == PAPER
    assert (PAPER["epochs"], PAPER["seeds"]) == (100, 10)


def test_params_yaml_spells_out_every_default() -> None:
    """A reader of params.yaml sees every number: nothing is left to a default in the code.

    But for the study's name and folder and where its extra studies lie, which follow from the
    overlays, and what a data set needs to be read, which the catalogue says.
    """

    def keys(values: Any, path: str = "") -> set[str]:
        if not isinstance(values, dict):
            return {path}
        return {leaf for key, value in values.items() for leaf in keys(value, f"{path}.{key}")}

    values = shipped_params()
    dumped = Study.from_mapping(values).model_dump(by_alias=True)
    assert dumped.pop("datasets").keys() == values.pop("datasets").keys()
    follow = {".study.name", ".study.workdir", ".report.extra_studies"}
    assert keys(dumped) - keys(values) == follow
    assert keys(values) <= keys(dumped)


@pytest.mark.parametrize(
    "overlay", sorted((REPOSITORY / "config").glob("*.yaml")), ids=lambda p: p.stem
)
def test_every_shipped_overlay_is_valid_and_works_elsewhere(overlay: Path) -> None:
    study = Study.load(REPOSITORY / "params.yaml", overlay)
    assert study.grid.workdir == f"build/{study.grid.name}"
    assert study.grid.name == overlay.stem


def test_overlays_name_the_study_unless_one_of_them_does(tmp_path: Path) -> None:
    params = REPOSITORY / "params.yaml"
    reduced, hard = (REPOSITORY / f"config/{name}.yaml" for name in ("reduced", "hard"))
    mine = tmp_path / "mine.yaml"
    mine.write_text("study: {name: other}")
    for overlays, name, workdir in (
        ((), "paper", "."),
        ((params,), "paper", "."),
        ((reduced,), "reduced", "build/reduced"),
        ((reduced, hard), "reduced_hard", "build/reduced_hard"),
        ((reduced, mine), "other", "build/reduced_mine"),
    ):
        grid = Study.load(params, *overlays).grid
        assert (grid.name, grid.workdir) == (name, workdir)
    (tmp_path / "other").mkdir()
    other = tmp_path / "other/params.yaml"  # an overlay like any other
    other.write_text("data: {image_size: 64}")
    base = tmp_path / "params.yaml"
    settings = yaml.safe_load(params.read_text())
    settings["study"] |= {"name": "alice", "workdir": "elsewhere"}
    base.write_text(yaml.safe_dump(settings))
    for overlays, name, workdir in (
        ((), "alice", "elsewhere"),
        ((base,), "alice", "elsewhere"),
        ((reduced,), "alice_reduced", "elsewhere/build/alice_reduced"),
        ((other,), "alice_params", "elsewhere/build/alice_params"),
    ):
        grid = Study.load(base, *overlays).grid
        assert (grid.name, grid.workdir) == (name, workdir)
    both = Study.load(params, reduced, hard)
    assert both.losses.kind == "hard"
    assert both.data.image_size == 64


REFUSED = {
    "unknown key": ("training: {epoch: 3}", ["training.epoch", "Did you mean 'epochs'?"]),
    "unknown key of the study": ("study: {seed: 3}", ["study.seed", "Did you mean 'seeds'?"]),
    "unknown section, study": ("studdy: {seeds: 3}", ["studdy", "Did you mean 'study'?"]),
    "unknown section": ("trainin: {}", ["trainin", "Did you mean 'training'?"]),
    "wrong type": ("training: {epochs: ten}", ["training.epochs = 'ten'", "integer"]),
    "number as text": ("training: {epochs: '10'}", ["training.epochs = '10'", "integer"]),
    "negative": ("training: {learning_rate: -0.1}", ["training.learning_rate", "greater than 0"]),
    "infinite": ("auxiliary: {gamma0: .inf}", ["auxiliary.gamma0", "finite"]),
    "fractions": (
        "split: {train: 0.7, validation: 0.15, test: 0.2}",
        ["split", "sum to 1", "1.05"],
    ),
    "unknown dataset": ("study: {datasets: [bosi]}", ["bosi", "busi, busc, bus, phantom"]),
    "unknown configuration": (
        "study: {configurations: [cb_dise-variance]}",
        ["cb_dise-variance", "did you mean 'cb_dice-variance'?", "tversky"],
    ),
    "the same twice": ("study: {configurations: [fixed, fixed]}", ["named twice: fixed"]),
    "two names of one": ("study: {configurations: [fixed, none-fixed]}", ["named twice: fixed"]),
    "no seeds": ("study: {seeds: 0}", ["study.seeds = 0", "greater than or equal to 1"]),
    "odd image size": ("data: {image_size: 100}", ["100", "multiple of 16"]),
    "warm-up beyond window": ("fusion: {warmup: 200}", ["warmup (200)", "window (150)"]),
    "unknown kind of source": ("datasets: {x: {kind: zip}}", ["datasets.x", "'zip'", "busi"]),
    "typo in a source": (
        "datasets: {busi: {kind: busi, arhive: x.zip}}",
        ["datasets.busi.arhive", "Did you mean 'archive'?"],
    ),
    "unknown placeholder": ("report: {extra_studies: 'a/{b}'}", ["report.extra_studies", "a/{b}"]),
    "nothing to score": (
        "study: {datasets: [busi], evaluate_on: [busi]}",
        ["study.evaluate_on", "'busi'", "Name another set"],
    ),
    "empty grid": ("study: {datasets: []}", ["study.datasets", "at least 1 item"]),
}


@pytest.mark.parametrize(("text", "expected"), REFUSED.values(), ids=REFUSED)
def test_impossible_values_are_refused_with_key_value_and_remedy(
    text: str, expected: list[str], tmp_path: Path
) -> None:
    overlay = tmp_path / "overlay.yaml"
    overlay.write_text(text)
    with pytest.raises(DmfError) as failure:
        Study.load(REPOSITORY / "params.yaml", overlay)
    message = str(failure.value)
    assert "overlay.yaml" in message
    for part in expected:
        assert part in message


@pytest.mark.parametrize("text", ["a: [", "- 1", ""])
def test_a_file_that_is_no_mapping_is_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(text)
    with pytest.raises(DmfError, match=r"params\.yaml"):
        Study.load(path)


def test_a_missing_file_is_named() -> None:
    with pytest.raises(DmfError, match=r"nowhere\.yaml cannot be read"):
        Study.load(Path("nowhere.yaml"))


def test_exponents_without_a_point_are_numbers(tmp_path: Path) -> None:
    """YAML 1.1 readers deliver 1e-3 as text; YAML 1.2 readers, such as DVC's, as a number."""
    overlay = tmp_path / "overlay.yaml"
    overlay.write_text("training: {learning_rate: 1e-3}")
    assert Study.load(REPOSITORY / "params.yaml", overlay).training.learning_rate == 1e-3


def test_lists_replace_and_mappings_merge(tmp_path: Path) -> None:
    overlay = tmp_path / "overlay.yaml"
    overlay.write_text("study: {configurations: [fixed]}")
    study = Study.load(REPOSITORY / "params.yaml", overlay)
    assert study.grid.configurations == ["fixed"]
    assert study.grid.datasets == ["busi", "busc", "bus"]


@pytest.mark.parametrize(
    ("change", "touched"),
    [
        ({"losses": {"focal": {"gamma": 3.0}}}, {"focal-variance", "focal-mad", "focal-bayesian"}),
        ({"fusion": {"window": 90, "warmup": 3}}, set(paper_configurations()) - {"fixed"}),
        ({"training": {"epochs": 9}}, set(paper_configurations())),
        ({"execution": {"threads": 7, "device": "cpu"}}, set()),
        ({"report": {"dpi": 99}}, set()),
        ({"study": {"seeds": 3}}, set()),
    ],
)
def test_a_change_touches_only_the_configurations_it_concerns(
    change: dict[str, Any], touched: set[str]
) -> None:
    before, after = Study.from_mapping(TINY), Study.from_mapping(tiny(**change))
    differ = {
        name
        for name in paper_configurations()
        if before.run_parameters(name) != after.run_parameters(name)
    }
    assert differ == touched


def test_released_preset_sets_the_four_switches_and_nothing_else() -> None:
    paper = Study.from_mapping(TINY).model_dump()
    released = Study.from_mapping({**TINY, "preset": "released"}).model_dump()
    assert released["losses"]["kind"] == "hard"
    assert released["losses"]["focal"]["applied_to"] == "precision"
    assert released["fusion"]["median"] == "released"
    assert released["fusion"]["detach"] is False
    assert set(RELEASED) == {"losses", "fusion"}
    focal = {"focal": {**paper["losses"]["focal"], "applied_to": "precision"}}
    assert released == {
        **paper,
        "preset": "released",
        "losses": {**paper["losses"], **focal, "kind": "hard"},
        "fusion": {**paper["fusion"], "median": "released", "detach": False},
    }


def test_the_extra_studies_of_a_study_lie_beside_it() -> None:
    def folder(*overlays: str) -> str:
        paths = [REPOSITORY / f"config/{name}.yaml" for name in overlays]
        study = Study.load(REPOSITORY / "params.yaml", *paths)
        place = study.report.extra_studies.format(name=study.grid.name, study="hard")
        return os.path.normpath(Path(study.grid.workdir) / place)

    assert folder() == "build/hard"
    assert folder("demo") == "build/demo_hard"
    assert folder("reduced", "grouped") == "build/reduced_grouped_hard"


@pytest.mark.parametrize(
    ("name", "words"), [("my-study", r"'my-study' is no name"), ("published", "build/published")]
)
def test_a_file_that_cannot_name_a_study_is_refused(name: str, words: str, tmp_path: Path) -> None:
    overlay = tmp_path / f"{name}.yaml"
    overlay.write_text("data: {image_size: 64}")
    with pytest.raises(DmfError, match=rf"{name}\.yaml[\s\S]*{words}"):
        Study.load(REPOSITORY / "params.yaml", overlay)
    overlay.write_text("study: {name: mine, workdir: build/mine}")  # its own words count
    assert Study.load(REPOSITORY / "params.yaml", overlay).grid.name == "mine"


def test_a_setting_that_contradicts_the_preset_is_refused(tmp_path: Path) -> None:
    overlay = tmp_path / "mixed.yaml"
    overlay.write_text("preset: released\nlosses: {kind: soft}\nfusion: {detach: false}\n")
    found = r"mixed.yaml: losses.kind = soft contradicts .*sets it to hard"
    with pytest.raises(DmfError, match=found):
        Study.load(REPOSITORY / "params.yaml", overlay)
    overlay.write_text("losses: {kind: soft}\n")
    released = REPOSITORY / "config/released.yaml"
    with pytest.raises(DmfError, match=found):
        Study.load(REPOSITORY / "params.yaml", released, overlay)
    overlay.write_text("losses: {kind: hard}\n")
    assert Study.load(REPOSITORY / "params.yaml", released, overlay).losses.kind == "hard"


@pytest.mark.parametrize(
    ("overlay", "changed"),
    [
        ("full_size", []),
        ("reduced", []),
        ("released", []),
        ("grouped", []),
        ("hard", ["losses.kind = hard"]),
        ("gamma_batch", ["auxiliary.step_batches = 1"]),
        ("filter_off", ["data.filter.apply = False"]),
    ],
)
def test_what_is_not_the_papers_is_named(overlay: str, changed: list[str]) -> None:
    study = Study.load(REPOSITORY / "params.yaml", REPOSITORY / f"config/{overlay}.yaml")
    assert study.report_parameters().changed == changed


def test_step_parameters_survive_json() -> None:
    study = Study.load(REPOSITORY / "params.yaml")
    for parameters in (
        study.download_parameters("busi"),
        study.download_parameters("phantom"),
        study.filter_parameters(),
        study.run_parameters("focal-mad"),
        study.report_parameters(),
    ):
        text = parameters.model_dump_json()
        assert type(parameters).model_validate_json(text) == parameters


@pytest.mark.parametrize(
    ("text", "key", "lines"),
    [
        ("training: {epochs: 3}\nmodel: {}\ntraining: {epochs: 4}\n", "training", (1, 3)),
        ("training:\n  epochs: 3\n  batch_size: 8\n  epochs: 4\n", "epochs", (2, 4)),
        ('{"data": {"image_size": 32,\n "image_size": 64}}', "image_size", (1, 2)),
    ],
)
def test_a_key_given_twice_is_refused_with_both_lines(
    tmp_path: Path, text: str, key: str, lines: tuple[int, int]
) -> None:
    overlay = tmp_path / "twice.yaml"
    overlay.write_text(text)
    told = rf"twice\.yaml .*'{key}' is given twice, in lines {lines[0]} and {lines[1]}"
    with pytest.raises(DmfError, match=told):
        Study.load(REPOSITORY / "params.yaml", overlay)


@pytest.mark.parametrize(
    ("encoding", "told"),
    [("utf-16", "UTF-16"), ("cp1252", "byte 0xfc in line 2"), ("utf-8-sig", "")],
)
def test_the_encoding_of_a_file_is_named(tmp_path: Path, encoding: str, told: str) -> None:
    overlay = tmp_path / "odd.yaml"
    overlay.write_bytes("training: {epochs: 3}\n# für uns\n".encode(encoding))
    if not told:
        assert Study.load(REPOSITORY / "params.yaml", overlay).training.epochs == 3
        return
    with pytest.raises(DmfError, match=rf"odd\.yaml is not UTF-8 text .*{told}.* Save it as UTF-8"):
        Study.load(REPOSITORY / "params.yaml", overlay)


def test_values_that_repeat_themselves_fill_no_disk(tmp_path: Path) -> None:
    """Nine levels of aliases, nine each: 280 bytes, and 9⁹ words if printed."""
    levels = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    levels += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 9)]
    overlay = tmp_path / "bomb.yaml"
    overlay.write_text("\n".join([*levels, "training: {epochs: *a8}"]))
    with pytest.raises(DmfError) as refused:
        Study.load(REPOSITORY / "params.yaml", overlay)
    assert "training.epochs" in str(refused.value)
    assert len(str(refused.value)) < 10_000


def test_what_was_typed_is_named_and_the_better_way_told() -> None:
    typed = {"training": {"epochs": "3"}}
    with pytest.raises(DmfError, match=r"params\.yaml \+ --config is not(.|\n)*--configfile"):
        Study.from_mapping({**TINY, **typed}, typed=typed)
    with pytest.raises(DmfError) as other:
        Study.from_mapping(tiny(data={"image_size": 33}), typed={"execution": {"device": "cpu"}})
    assert "--configfile" not in str(other.value)
