"""The `dmf` command: one thin subcommand per step, and a few for people.

Snakemake gives a step its parameters as JSON (``--parameters``), relative to the study's working
directory. People leave that out: the parameters then come from ``params.yaml`` and its overlays.
"""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, TypeVar

try:
    import typer
except ImportError as error:
    sys.exit(
        f"error: {error}. This environment has the fusion alone (`from dmf import "
        "DynamicMemoryFusion`). The command `dmf` belongs to the study: `make environment` in the "
        "project's folder, or pip install '.[study]' there."
    )

from dmf import __version__, layout
from dmf.arguments import (
    ROOT_PARAMS,
    Dataset,
    Json,
    Overlay,
    Params,
    Project,
    Root,
    Seed,
    a_name,
    enter_study,
    model_at,
    parameters_of,
    parsed,
    refuse_foreign_code,
    snakemake,
)
from dmf.errors import DmfError
from dmf.markup import printable
from dmf.settings import Execution, Split
from dmf.study import (
    DownloadParameters,
    FilterParameters,
    Grid,
    ReportParameters,
    RunParameters,
    Study,
)

app = typer.Typer(
    help="Dynamic Memory Fusion: the study of arXiv 2410.19745, step by step.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

TRACEBACK = "DMF_TRACEBACK"
T = TypeVar("T")


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"dmf {__version__}")
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
    traceback: Annotated[
        bool, typer.Option("--traceback", envvar=TRACEBACK, help="Show where an error came from.")
    ] = False,
) -> None:
    # What a notebook asks matplotlib for needs the notebook; here every figure goes to a file.
    os.environ["MPLBACKEND"] = "agg"
    # In a job, the folder of the Snakefile, which runs the `dmf` it finds on PATH.
    if project := os.environ.get("DMF_PROJECT"):
        refuse_foreign_code(Path(project), os.environ.get("DMF_CODE"))


@app.command()
def check(
    devices_too: Annotated[
        bool, typer.Option("--devices/--no-devices", help="Look at this machine's devices too.")
    ] = True,
    params: Params = ROOT_PARAMS,
    overlay: Overlay = None,
) -> None:
    """Validate the study; say what it consists of, and where it would train on this machine."""
    from dmf.training import devices, probe

    study = Study.load(params, *(overlay or []))
    grid = study.grid
    runs = len(grid.datasets) * len(grid.configurations) * grid.seeds
    steps, epochs = study.training.steps, study.training.epochs
    length = f"{epochs} epochs" if steps is None else f"{steps} steps"
    typer.echo(
        f"study {grid.name!r}: {len(grid.datasets)} datasets x {len(grid.configurations)} "
        f"configurations x {grid.seeds} seeds = {runs} runs of {length} at "
        f"{study.data.image_size}x{study.data.image_size}, in {grid.workdir}"
    )
    if not devices_too:
        return
    names = devices.device_names(study.execution)
    if not names:  # to say in which precision would take torch, and seconds
        typer.echo("trainings here run on the CPU")
        return
    found = probe.ask(names)
    for warning in probe.check(found, names, study.training.precision):
        typer.echo(f"warning: {warning}", err=True)
    where = devices.describe(names, devices.slots_per_device(study.execution, names))
    precision = probe.resolve_precision(found, study.training.precision)
    typer.echo(f"trainings here run on {where}, in {precision}")


@app.command()
def plan(params: Params = ROOT_PARAMS, overlay: Overlay = None) -> None:
    """Say what is done, what is left, and what time and disk it will take here."""
    from dmf.training import plan as planning

    study = enter_study(params, overlay)
    for line in planning.describe(study, planning.plan(study)):
        typer.echo(line)


@app.command()
def download(
    dataset: Dataset,
    parameters: Json = None,
    root: Project = None,
    params: Params = ROOT_PARAMS,
    overlay: Overlay = None,
) -> None:
    """Download or generate a set into data/raw/."""
    from dmf.data.download import download as run

    root = (root or params.parent).resolve()
    run(
        dataset,
        parameters_of(
            DownloadParameters,
            parameters,
            params,
            overlay,
            lambda s: s.download_parameters(dataset),
        ),
        root,
    )


@app.command("filter")
def filter_(
    dataset: Dataset, parameters: Json = None, params: Params = ROOT_PARAMS, overlay: Overlay = None
) -> None:
    """Filter and resize a set into data/filtered/."""
    from dmf.data.filtering import filter_dataset

    filter_dataset(
        dataset,
        parameters_of(
            FilterParameters, parameters, params, overlay, lambda s: s.filter_parameters()
        ),
    )


@app.command()
def card(
    dataset: Dataset,
    here: Annotated[bool, typer.Option(help="The working directory is the study's own.")] = False,
    params: Params = ROOT_PARAMS,
    overlay: Overlay = None,
) -> None:
    """Write the data card of a set into reports/data/."""
    from dmf.data.cards import write_card

    if not here:
        enter_study(params, overlay)
    write_card(dataset, layout.CARDS)


@app.command()
def split(
    dataset: Dataset,
    seed: Seed,
    parameters: Json = None,
    root: Project = None,
    params: Params = ROOT_PARAMS,
    overlay: Overlay = None,
) -> None:
    """Divide a set into train, validation and test for one seed."""
    from dmf.data.splits import write_split

    root = (root or params.parent).resolve()
    wanted = parameters_of(Split, parameters, params, overlay, lambda study: study.split)
    write_split(dataset, seed, wanted.seen_from(root), _say)


@app.command()
def train(
    dataset: Dataset,
    configuration: str,
    seed: Seed,
    parameters: Json = None,
    execution: Annotated[str | None, typer.Option(help="JSON: device, slots, threads.")] = None,
    params: Params = ROOT_PARAMS,
    overlay: Overlay = None,
) -> None:
    """Train one run, continue it, or adopt it if it is complete."""
    from dmf.training.run_record import Run
    from dmf.training.train import Interrupted
    from dmf.training.train import train as train_run

    if parameters is None:
        study = enter_study(params, overlay)
        if dataset not in study.grid.datasets or seed not in study.seeds:
            raise DmfError(
                f"{dataset} seed {seed} is not part of the study: datasets are "
                f"{', '.join(study.grid.datasets)}, seeds 0 to {study.seeds[-1]}"
            )
        chosen, where = study.run_parameters(configuration), study.execution
    else:
        chosen = parsed(RunParameters, parameters)
        where = parsed(Execution, execution or "{}")
    try:
        cell = layout.Cell(dataset, chosen.configuration.name, seed)
        train_run(Run(cell, chosen), where, _say)
    except Interrupted as error:
        typer.echo(f"{error}; the same command continues from the checkpoint", err=True)
        raise typer.Exit(128 + error.signal) from None


@app.command()
def aggregate(
    partial: Annotated[bool, typer.Option(help="Report an unfinished study too.")] = False,
    parameters: Json = None,
    params: Params = ROOT_PARAMS,
    overlay: Overlay = None,
) -> None:
    """Collect every run's metrics into reports/results.csv."""
    from dmf.analysis import results

    take = _of_its_results(params, _grid)
    grid = parameters_of(Grid, parameters, params, overlay, take)
    results.write(results.collect(grid, partial=partial), grid, layout.REPORTS)


@app.command()
def figures(parameters: Json = None, params: Params = ROOT_PARAMS, overlay: Overlay = None) -> None:
    """Draw the figures from reports/results.csv and the histories."""
    from dmf.analysis import results
    from dmf.analysis.figures import catalogue

    take = _of_its_results(params, Study.report_parameters)
    given = parameters_of(ReportParameters, parameters, params, overlay, take)
    catalogue.write_all(results.read(layout.RESULTS), given, layout.FIGURES)


@app.command()
def report(parameters: Json = None, params: Params = ROOT_PARAMS, overlay: Overlay = None) -> None:
    """Write tables, verdicts and the page reports/index.html."""
    from dmf.analysis import results, tables
    from dmf.analysis.page import page
    from dmf.tracking import stores

    take = _of_its_results(params, Study.report_parameters)
    given = parameters_of(ReportParameters, parameters, params, overlay, take)
    frame = results.read(layout.RESULTS)
    tables.write_all(frame, given, layout.TABLES)
    server = stores.public(os.environ.get("MLFLOW_TRACKING_URI", ""))
    page.write(frame, given, layout.REPORTS, server=server)
    typer.echo(f"report: {layout.PAGE.resolve()}")


@app.command()
def left(
    root: Root = Path(),
    params: Params = ROOT_PARAMS,
    overlay: Overlay = None,
) -> None:
    """List the results that neither this machine nor reports/published/ has."""
    from dmf import publication

    folder = root.resolve() / publication.FOLDER
    study = enter_study(params, overlay)
    for path in publication.left(study, folder / study.grid.name, _warn):
        typer.echo(path)


@app.command()
def publish(
    replace: Annotated[
        bool, typer.Option("--replace", help="Let go of published runs that fit no more.")
    ] = False,
    root: Root = Path(),
    params: Params = ROOT_PARAMS,
    overlay: Overlay = None,
) -> None:
    """Keep the study's records, without images and models, and its report in reports/published/."""
    from dmf import publication
    from dmf.rebuild import rebuild

    root = root.resolve()
    study = enter_study(params, overlay)
    folder = root / publication.FOLDER / study.grid.name
    publication.publish(study, folder, _say, replace=replace)
    rebuild([folder], root, _say)


@app.command()
def rebuild(
    folders: Annotated[
        list[Path] | None, typer.Argument(help="Published studies; all, if none is named.")
    ] = None,
) -> None:
    """Write the reports of published studies anew, from their records, into build/published/."""
    from dmf import publication
    from dmf.rebuild import rebuild

    rebuild(folders or publication.published(), log=_say)


@app.command()
def track(
    follow: Annotated[bool, typer.Option(help="Tail running jobs until all are done.")] = False,
    strict: Annotated[bool, typer.Option(help="Fail if the server cannot be reached.")] = False,
    parameters: Json = None,
    params: Params = ROOT_PARAMS,
    overlay: Overlay = None,
) -> None:
    """Bring the run folders into MLflow (MLFLOW_TRACKING_URI, or mlflow/mlflow.db)."""
    from dmf import tracking

    given = parameters_of(ReportParameters, parameters, params, overlay, Study.report_parameters)
    summary = tracking.track(given, follow=follow, strict=strict, log=_say)
    typer.echo(summary.message, err=bool(summary.failed))


@app.command()
def ui(
    port: Annotated[int, typer.Option(help="On 127.0.0.1.")] = 5000,
    params: Params = ROOT_PARAMS,
    overlay: Overlay = None,
) -> None:
    """Serve the MLflow pages over this study's runs, newly finished ones included."""
    from dmf import tracking

    study = enter_study(params, overlay)
    command = tracking.server_command(port=port)
    typer.echo(tracking.track(study.report_parameters(), log=_say).message)
    typer.echo(f"Open http://127.0.0.1:{port} in a browser; Ctrl-C ends it.")
    os.execve(command[0], command, tracking.server_environment(port=port))


@app.command()
def predict(
    images: Annotated[list[Path], typer.Argument(help="Ultrasound images, or folders of them.")],
    model: Annotated[Path, typer.Option(help="A run, its folder, or a .safetensors file.")],
    output: Annotated[Path, typer.Option(help="Where masks and overlays go.")] = Path(
        "predictions"
    ),
    grey_range: Annotated[
        tuple[int, int] | None,
        typer.Option(help="Values of 16-bit images that are black and white, as in training."),
    ] = None,
    transparent_ground: Annotated[
        int, typer.Option(help="Grey value of what is transparent.", min=0, max=255)
    ] = 0,
    params: Params = ROOT_PARAMS,
    overlay: Overlay = None,
) -> None:
    """Segment images with a trained model: <name>_mask.png and <name>_overlay.png."""
    from dmf.training.predict import predict_files

    found = model_at(model, params, overlay)
    file = found / layout.BEST_MODEL if found.is_dir() else found
    if grey_range and grey_range[0] >= grey_range[1]:
        raise DmfError(f"--grey-range {grey_range[0]} {grey_range[1]}: the first must be smaller.")
    written = predict_files(
        images, file, output, grey_range=grey_range, transparent_ground=transparent_ground
    )
    for path in written:
        typer.echo(path)


@app.command()
def evaluate(
    dataset: Annotated[
        str,
        typer.Option(help="A downloaded set that it was not trained on.", callback=a_name),
    ],
    model: Annotated[
        list[Path] | None,
        typer.Option(
            help="A run, its folder, or a .safetensors file; repeatable. "
            "[default: every run of the study that was trained on another set]"
        ),
    ] = None,
    parameters: Json = None,
    params: Params = ROOT_PARAMS,
    overlay: Overlay = None,
) -> None:
    """Score trained runs on another set: a table, and CSVs in reports/evaluations/."""
    from dmf.training import evaluate as evaluation

    files = [model_at(path, params, overlay).resolve() for path in model or ()]
    take = _grid if model else _of_its_results(params, _grid)
    grid = parameters_of(Grid, parameters, params, overlay, take)
    if model is None:
        files, diverged = evaluation.trained_elsewhere(grid, dataset)
        for folder in diverged:
            typer.echo(f"{folder} is left out: its training diverged", err=True)
    found = list(evaluation.evaluate(files, dataset, every_image=model is not None))
    if model is None:
        evaluation.write_table(dataset, found)
    for line in evaluation.describe(found):
        typer.echo(line)
    written = layout.evaluations(dataset) if model is None else layout.EVALUATIONS / dataset
    typer.echo(f"in percent; all metrics: {written.resolve()}")


@app.command()
def verify(
    dataset: Annotated[str | None, typer.Option(help="Only this set.", callback=a_name)] = None,
    params: Params = ROOT_PARAMS,
    overlay: Overlay = None,
) -> None:
    """Compare data, splits and models with the hashes and parameters they must have."""
    from dmf.verify import problems

    root = params.parent.resolve()
    study = enter_study(params, overlay)
    found = problems(study, study.grid.datasets if dataset is None else [dataset], root)
    for line in found:
        typer.echo(printable(line), err=True)
    if found:
        raise DmfError(
            f"{len(found)} problems in {Path.cwd()}. Delete what is named (of damaged raw data all "
            f"of data/raw/<set>): `{snakemake(params, overlay)}` then makes it again; it does not "
            "look into files by itself. Or fetch damaged ones with `dvc pull`."
        )
    typer.echo("data, splits and models match their hashes and the study's parameters")


@app.command()
def prune(
    delete: Annotated[bool, typer.Option(help="Delete, rather than list.")] = False,
    params: Params = ROOT_PARAMS,
    overlay: Overlay = None,
) -> None:
    """List or delete run folders, splits and checkpoints that the study no longer names."""
    from dmf.verify import strangers

    for path in strangers(enter_study(params, overlay), delete=delete):
        typer.echo(f"{'deleted' if delete else 'not part of the study:'} {path}")


def _grid(study: Study) -> Grid:
    return study.grid


def _of_its_results(params: Path, take: Callable[[Study], T]) -> Callable[[Study], T]:
    """Return ``take`` for a study whose results will be read: refused if of other settings."""
    root = params.parent.resolve()

    def checked(study: Study) -> T:
        from dmf.stale import refuse_other_settings

        refuse_other_settings(study, root)
        return take(study)

    return checked


def _say(line: str) -> None:
    print(line, flush=True)


def _warn(line: str) -> None:
    """Tell the user, away from the standard output that other programs read."""
    print(line, file=sys.stderr, flush=True)


def main() -> None:
    """Run the command; what goes wrong ends in one message, or with `--traceback` in its own."""
    try:
        app()
    except Exception as error:
        if "--traceback" in sys.argv or os.environ.get(TRACEBACK):
            raise
        from dmf.unexpected import in_words

        print(printable(f"error: {in_words(error)}"), file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
