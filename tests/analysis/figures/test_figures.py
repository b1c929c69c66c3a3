"""The figures say what the results say, and the same results give the same bytes."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import chdir
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from types import ModuleType
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.text import Annotation, Text
from scipy import stats

from dmf.analysis import results
from dmf.analysis.figures import catalogue, paper, scores, seeds, style, training
from dmf.analysis.paper.numbers import paper_table
from dmf.analysis.verdict.comparisons import compare
from dmf.data.arrays import read_arrays
from dmf.layout import split
from dmf.outcomes import EVALUATIONS
from dmf.study import Study

import synthetic
from pages import drawing_only

CONFIGURATIONS = [
    "cb_dice-variance",
    "cb_dice-mad",
    "focal-variance",
    "tversky-bayesian",
    "none-variance",
    "fixed",
]
MISSING = [("busi", "tversky-bayesian", seed) for seed in range(3)]
DIVERGED = [("busi", "focal-variance", seed) for seed in range(3)]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Path, Any]]:
    """Replace prediction by the images' dark half; return what was asked for."""
    calls: list[tuple[Path, Any]] = []

    def predict(model_file: Path, images: Any) -> Any:
        calls.append((model_file, images))
        return (images < 60).astype(np.uint8)

    stand_in = ModuleType("dmf.training.inference")
    stand_in.predict = predict  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "dmf.training.inference", stand_in)
    return calls


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Study]:
    """A study of BUSI and phantom images, entered; one configuration is missing, one diverged."""
    made = synthetic.make_study(
        {"busi": "busi", "phantom": "phantom"},
        configurations=CONFIGURATIONS,
        epochs=6,
        report={"dpi": 50},
    )
    folder = tmp_path_factory.mktemp("study")
    synthetic.write_study(
        folder, made, dice={"cb_dice-mad": 0.86}, missing=MISSING, diverged=DIVERGED
    )
    with chdir(folder):
        yield made


def material(study: Study, dataset: str = "busi") -> style.Material:
    parameters = study.report_parameters()
    table = results.collect(parameters.grid, partial=True)
    return style.Material(table, results.histories(parameters.grid), parameters, dataset)


def texts(figure: Figure) -> list[str]:
    """Return every text of a figure, its title included."""
    found = [text.get_text() for axes in figure.axes for text in axes.texts]
    found += [axes.get_title() for axes in figure.axes]
    found += [note.get_text() for note in figure.findobj(Annotation)]
    return [*found, figure.get_suptitle()]


@pytest.mark.slow
def test_expected_names_are_the_files_written(
    study: Study, asked: list[Any], tmp_path: Path
) -> None:
    parameters = study.report_parameters()
    table = results.collect(parameters.grid, partial=True)
    before = dict(matplotlib.rcParams)
    entries = catalogue.write_all(table, parameters, tmp_path)

    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        catalogue.expected(parameters)
    )
    assert dict(matplotlib.rcParams) == before
    assert pyplot.get_fignums() == []
    names = {entry.name for entry in entries}
    assert "busi-agreement" in names
    assert "phantom-agreement" not in names  # phantom scores are never set against the paper's
    assert catalogue.read_captions(tmp_path) == entries
    by_name = {entry.name: entry for entry in entries}
    assert by_name["busi-qualitative"].caption.startswith("The paper's Figure 1.")
    assert by_name["busi-weights"].caption.startswith("The paper's Figure 4.")
    assert by_name["busi-losses"].caption.startswith("The paper's Figure 5.")
    for entry in entries:
        assert entry.note.startswith(
            "Phantom data" if entry.dataset == "phantom" else "Reduced study"
        )
        assert "The paper's Figure" not in entry.caption or entry.dataset == "busi"
        assert entry.alt


def test_the_names_are_known_without_drawing_libraries() -> None:
    """Snakemake asks for them in every job."""
    code = (
        "import sys; from dmf.analysis.figures import catalogue; "
        "print([n for n in ('matplotlib', 'pandas', 'scipy', 'torch') if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.slow
def test_the_same_results_give_the_same_bytes(
    study: Study, asked: list[Any], tmp_path: Path
) -> None:
    data = material(study)
    for folder in ("one", "two"):
        for name in ("qualitative", "weights"):
            with style.house_style():
                figure = getattr(paper, f"draw_{name}")(data).figure
                style.save(figure, tmp_path / folder / name, ["png", "pdf"], 60)
    written = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert written == ["qualitative.pdf", "qualitative.png", "weights.pdf", "weights.png"]
    for name in written:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_qualitative_rows_follow_the_rules_of_selection(study: Study, asked: list[Any]) -> None:
    drawing = paper.draw_qualitative(material(study))
    arrays = read_arrays(Path("data/filtered/busi.json"))
    subsets = pd.read_csv(split("busi", 0))
    test = set(subsets.loc[subsets["subset"] == "test", "id"])
    shown = drawing.caption.rpartition(": ")[2].rstrip(".").split(", ")

    assert len(shown) == study.report.samples
    assert set(shown) <= test
    sizes = [int((arrays.masks[arrays.ids.index(name)] > 0).sum()) for name in shown]
    assert sizes == sorted(sizes)
    # Columns d-h: Tversky is missing, focal diverged; CB-Dice's better weighting is MAD (planted).
    files = [str(path) for path, _ in asked]
    assert files == [
        "models/busi/cb_dice-mad/seed-00/best.safetensors",
        "models/busi/none-variance/seed-00/best.safetensors",
        "models/busi/fixed/seed-00/best.safetensors",
    ]
    for _, images in asked:
        rows = [arrays.ids.index(name) for name in shown]
        assert np.array_equal(images, arrays.filtered[rows])
    written = texts(drawing.figure)
    assert written.count("not run") == written.count("diverged") == study.report.samples
    titles = [axes.get_title().split("\n")[0] for axes in drawing.figure.axes[:8]]
    assert titles == list("abcdefgh")


def test_foreground_dice_of_the_panels(study: Study, asked: list[Any]) -> None:
    drawing = paper.draw_qualitative(material(study))
    axes = drawing.figure.axes[7]  # first row, column h
    truth = np.asarray(drawing.figure.axes[2].images[0].get_array())
    mask = np.asarray(axes.images[0].get_array())
    expected = 200 * (mask & truth).sum() / (mask.sum() + truth.sum())
    assert axes.get_xlabel() == f"{expected:.1f}"


def test_without_models_there_is_a_placeholder_that_says_so(tmp_path: Path) -> None:
    made = synthetic.make_study(configurations=["fixed"], seeds=1, epochs=3)
    synthetic.write_study(tmp_path, made)
    for model in tmp_path.rglob("*.safetensors"):
        model.unlink()
    parameters = made.report_parameters()
    with chdir(tmp_path), drawing_only("phantom-qualitative"):
        table = results.collect(parameters.grid, partial=False)
        entries = catalogue.write_all(table, parameters, Path("figures"))
    # Fixed weights alone: nothing adapts, nothing to compare, no auxiliary.
    assert [entry.kind for entry in entries] == [
        *("seeds", "evaluations", "train-test", "curves", "qualitative")
    ]
    left_out = {entry.kind: entry.left_out for entry in entries if entry.left_out}
    assert left_out == {"qualitative": "no model of seed 0 is here"}
    assert (tmp_path / "figures/phantom-qualitative.png").stat().st_size > 0


def test_examples_of_a_seed_that_the_study_has_not_are_left_out(tmp_path: Path) -> None:
    made = synthetic.make_study(seeds=2, report={"qualitative_seed": 2})
    empty = pd.DataFrame(columns=results.COLUMNS)
    with pytest.raises(style.NothingToDraw, match=r"qualitative_seed = 2 is no seed"):
        paper.draw_qualitative(
            style.Material(empty, pd.DataFrame(), made.report_parameters(), "phantom")
        )


@pytest.mark.parametrize(
    ("draw", "prefix"),
    [(paper.draw_weights, "weight_"), (paper.draw_losses, "loss_")],
)
def test_histories_show_the_means_over_seeds(study: Study, draw: Any, prefix: str) -> None:
    data = material(study)
    figure = draw(data).figure
    panels = np.array(figure.axes).reshape(3, 3)  # variance, MAD, Bayesian by Tversky, focal, CB
    assert [axes.get_title() for axes in panels[0]] == ["Tversky", "Focal", "CB-Dice"]
    history = data.histories[data.histories["configuration"] == "cb_dice-mad"]
    for name, colour in style.LOSS_COLOURS.items():
        expected = history.groupby("epoch")[prefix + name].mean()
        lines = [line for line in panels[1, 2].lines if line.get_color() == colour]
        assert any(
            len(line.get_ydata()) == len(expected) and np.allclose(line.get_ydata(), expected)
            for line in lines
        )
    assert [text.get_text() for text in panels[2, 0].texts] == ["not run"]
    assert [text.get_text() for text in panels[0, 1].texts] == ["diverged"]
    assert [text.get_text() for text in panels[1, 1].texts] == ["not in this study"]


def test_differences_are_those_of_the_comparisons(study: Study) -> None:
    data = material(study)
    table = compare(data.results, data.parameters, "busi")
    axes = scores.draw_differences(data).figure.axes[0]
    drawn = {
        round(float(np.ravel(line.get_xdata())[0]), 6)
        for line in axes.lines
        if line.get_marker() in style.WEIGHTING_MARKERS.values()
    }
    expected = {round(100 * value, 6) for value in table.loc[table["n"] > 0, "difference"]}
    assert len(expected) > 3
    assert drawn == expected


def test_learning_curves_are_means_over_the_completed_seeds(study: Study) -> None:
    data = material(study)
    panels = {axes.get_title(): axes for axes in training.draw_curves(data).figure.axes}
    assert list(panels) == ["Tversky", "Focal", "CB-Dice", "No auxiliary"]
    history = data.histories[data.histories["configuration"] == "cb_dice-mad"]
    expected = 100 * history.groupby("epoch")["validation_dice"].mean()
    assert len(expected) == 6
    drawn = [np.asarray(line.get_ydata()) for line in panels["CB-Dice"].lines]
    assert len(drawn) == 2
    assert sum(np.allclose(line, expected) for line in drawn) == 1
    assert all(len(np.ravel(line.get_ydata())) == 0 for line in panels["Focal"].lines)  # diverged


def test_agreement_sets_our_means_against_the_papers(study: Study) -> None:
    data = material(study)
    figure = scores.draw_agreement(data).figure
    axes = figure.axes[0]
    assert axes.get_title() == "Dice"
    printed = paper_table("busi")[("dice", "mean")]
    ours = 100 * results.values(data.results, "busi", "dice").mean()
    points = {
        (round(float(line.get_xdata()[0]), 6), round(float(line.get_ydata()[0]), 6))
        for container in axes.containers
        for line in [container.lines[0]]
    }
    assert points == {(round(printed[name], 6), round(ours[name], 6)) for name in ours.index}


def test_phantom_figures_carry_the_label_and_nothing_of_the_paper(study: Study) -> None:
    data = material(study, "phantom")
    for draw in (
        scores.draw_train_test,
        seeds.draw_seeds,
        paper.draw_weights,
    ):
        figure = draw(data).figure
        assert "Phantom data" in figure.get_suptitle()
        labels = [text.get_text() for legend in figure.legends for text in legend.get_texts()]
        assert not any("paper" in label for label in labels)
    with pytest.raises(style.NothingToDraw):
        scores.draw_agreement(data)


def test_released_study_has_one_column_without_auxiliary() -> None:
    rows, columns = paper.grid_of_histories(
        ["none-variance", "none-mad", "none-bayesian", "none-random", "fixed"]
    )
    assert rows == ["variance", "mad", "bayesian", "random"]
    assert columns == ["none"]


# Machado, Oliveira and Fernandes (2009), severity 1, on linear RGB.
DEFICIENCIES = {
    "protanopia": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "deuteranopia": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
    "tritanopia": [
        [1.255528, -0.076749, -0.178779],
        [-0.078411, 0.930809, 0.147602],
        [0.004733, 0.691367, 0.303900],
    ],
}


@pytest.mark.parametrize("deficiency", DEFICIENCIES)
@pytest.mark.parametrize("palette", ["LOSS_COLOURS", "AUXILIARY_COLOURS"])
def test_colours_differ_to_colour_blind_eyes(palette: str, deficiency: str) -> None:
    seen = []
    for colour in getattr(style, palette).values():
        linear = np.array(to_rgb(colour)) ** 2.2
        seen.append(np.clip(np.array(DEFICIENCIES[deficiency]) @ linear, 0, 1) ** (1 / 2.2))
    for one, other in combinations(seen, 2):
        assert np.linalg.norm(one - other) > 0.12


def test_every_completed_seed_is_a_dot_with_the_interval_of_the_mean(study: Study) -> None:
    data = material(study)
    axes = seeds.draw_seeds(data).figure.axes[0]
    names = data.configurations()
    expected_scores = 100 * results.values(data.results, "busi", "dice")["fixed"]
    row = names.index("fixed")
    assert axes.get_yticklabels()[row].get_text() == "Fixed weights"
    lines = [line for line in axes.lines if np.all(np.abs(np.ravel(line.get_ydata()) - row) < 0.4)]
    printed, cross, dots, interval, mean = (np.ravel(line.get_xdata()) for line in lines)
    paper_mean, paper_std = paper_table("busi").loc["fixed", "dice"][["mean", "std"]]
    assert np.allclose(printed, [paper_mean - paper_std, paper_mean + paper_std])
    assert np.allclose(cross, paper_mean)
    assert np.allclose(dots, expected_scores)
    expected = stats.t.interval(
        0.95, len(dots) - 1, loc=expected_scores.mean(), scale=stats.sem(expected_scores)
    )
    assert np.allclose(interval, expected)
    assert np.allclose(mean, expected_scores.mean())


def test_evaluations_are_means_and_paired_differences(study: Study) -> None:
    data = material(study)
    scores_axes, gains_axes = scores.draw_evaluations(data).figure.axes
    names = data.configurations()
    row = names.index("cb_dice-mad")
    for axes, other in ((scores_axes, None), (gains_axes, "fixed")):
        drawn = [np.asarray(line.get_xdata(), dtype=float)[row] for line in axes.lines[-4:]]
        for x, evaluation in zip(drawn, EVALUATIONS, strict=True):
            table = results.values(data.results, "busi", "dice", epoch_choice=evaluation)
            scored = table["cb_dice-mad"] - (table[other] if other else 0)
            assert x == pytest.approx(100 * scored.mean())
    of_fixed = data.results["configuration"] == "fixed"
    lacking = data.results[~(of_fixed & (data.results["epoch_choice"] == "settled"))]
    assert scores.draw_evaluations(replace(data, results=lacking)).figure.axes
    older = data.results[data.results["epoch_choice"].isin(["last", "best", ""])]
    figure = scores.draw_evaluations(replace(data, results=older)).figure
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [
        *("last epoch", "best validation epoch")
    ]


def test_the_figure_for_papers_has_no_head_and_a_caption_that_says_all(study: Study) -> None:
    drawing = seeds.draw_for_papers(material(study))
    assert drawing.figure.get_suptitle() == ""
    for said in ("Reduced study: 6 epochs", "arXiv 2410.19745", "3 seeds", "test images of BUSI"):
        assert said in drawing.caption
    names = {entry.partition(".")[0] for entry in catalogue.expected(study.report_parameters())}
    assert "busi-for-papers" in names
    assert "phantom-for-papers" not in names


def test_captions_count_the_seeds_that_are_drawn(study: Study) -> None:
    whole = material(study)
    of_one = (whole.results["configuration"] == "fixed") & (whole.results["seed"] > 0)
    begun = replace(whole, results=whole.results[~of_one])
    assert "Each dot is one of 1 to 3 seeds" in seeds.draw_for_papers(begun).caption


def test_heads_say_which_study_it_is() -> None:
    made = synthetic.make_study({"busi": "busi"}, configurations=["fixed"], seeds=2)
    parameters = made.report_parameters()
    changed = parameters.model_copy(
        update={
            "preset": "released",
            "split": parameters.split.model_copy(update={"kind": "grouped"}),
            "auxiliary": parameters.auxiliary.model_copy(update={"step_batches": 1}),
            "changed": ["auxiliary.step_batches = 1", "data.filter.apply = False"],
        }
    )
    empty = pd.DataFrame(columns=results.COLUMNS)
    drawn = style.placeholder(style.Material(empty, empty, changed, "busi"), "title", "why")
    words = " ".join(drawn.figure.get_suptitle().split()) + " " + " ".join(texts(drawn.figure))
    for said in (
        *("study synthetic", "Reduced study", "preset released", "hard losses"),
        *("γ falls every batch", "grouped split", "2 seeds", "data.filter.apply = False"),
    ):
        assert said in words.replace("\n", " ")


@pytest.mark.parametrize("inches", [2.6, 3.4, style.WIDTH])
def test_heads_stay_inside_their_figure(inches: float) -> None:
    made = synthetic.make_study({"udiat": "udiat"}, configurations=["fixed"], seeds=2)
    parameters = made.report_parameters()
    empty = pd.DataFrame(columns=results.COLUMNS)
    figure = Figure(figsize=(inches, 3), layout="constrained")
    figure.subplots()
    style.head(figure, style.Material(empty, empty, parameters, "udiat"))
    FigureCanvasAgg(figure).draw()
    lines = [text for text in figure.findobj(Text) if text.get_text().strip()]
    heads = [line for line in lines if line.axes is None]
    assert any("not one of the paper" in " ".join(line.get_text().split()) for line in heads)
    for line in heads:
        extent = line.get_window_extent()
        assert extent.x0 >= 0, line.get_text()
        assert extent.x1 <= figure.bbox.x1, line.get_text()


def test_many_changed_settings_leave_the_panels_their_room() -> None:
    made = synthetic.make_study({"busi": "busi"}, configurations=["fixed"], seeds=2)
    many = [f"losses.fixed_weights = [0.5, {number}]" for number in range(12)]
    empty = pd.DataFrame(columns=results.COLUMNS)
    heights = []
    for changed in ([], many):
        parameters = made.report_parameters().model_copy(update={"changed": changed})
        drawn = style.placeholder(style.Material(empty, empty, parameters, "busi"), "title", "why")
        FigureCanvasAgg(drawn.figure).draw()
        heights.append(drawn.figure.axes[0].get_window_extent().height)
    assert heights[1] > 0.8 * heights[0]
