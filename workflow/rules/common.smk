"""What the rules share: names that exist, parameters as JSON, devices, and provenance lost."""

import os
import shlex
import sys

from dmf.analysis.figures.catalogue import TITLES, expected
from dmf import layout
from dmf.provenance import code_hash
from dmf.training.devices import device_names, resolve
from dmf.training.probe import ask, check

DATASETS = study.grid.datasets
EVALUATED_ON = study.grid.evaluate_on
CONFIGURATIONS = study.grid.configurations
SEEDS = [f"{seed:02d}" for seed in study.seeds]
FIGURES = [str(layout.FIGURES / name) for name in expected(study.report_parameters())]


wildcard_constraints:
    dataset="|".join(dict.fromkeys([*DATASETS, *EVALUATED_ON])),
    configuration="|".join(CONFIGURATIONS),
    seed="|".join(SEEDS),


# MLflow and DVC ask nobody's permission to phone home.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("DO_NOT_TRACK", "true")

# Where to run is no parameter of a rule: a change of it must not make results stale. What the first
# process finds out about the devices holds for those that it starts.
if workflow.is_main_process:
    # profiles/slurm counts slots in each allocation, whose devices are SLURM's business.
    on_cluster = workflow.resource_scopes.is_local("slot")
    try:
        devices = [] if on_cluster else device_names(study.execution)
    except DmfError as error:
        raise WorkflowError(str(error)) from None
    execution = resolve(study.execution, devices)
    os.environ["DMF_EXECUTION"] = execution.model_dump_json()
    # A training takes one slot. Without a limit, `--cores all` would start one for each core.
    if devices and "slot" not in workflow.global_resources:
        workflow.register_resource("slot", len(devices) * execution.slots)


envvars:
    "DMF_EXECUTION",


# Once, before the first job, and only where something will train: torch takes seconds to say it.
# In a container another torch trains, which speaks for itself.
onstart:
    if (
        workflow.is_main_process
        and devices
        and not workflow.touch
        and not workflow.deployment_settings.deployment_method
        and any(job.rule.name == "train" for job in workflow.dag.needrun_jobs())
    ):
        try:
            for warning in check(ask(devices), devices, study.training.precision):
                print(f"warning: {warning}", file=sys.stderr)
        except DmfError as error:
            raise WorkflowError(str(error)) from None


# On a cluster these stay where Snakemake runs: they need the internet, or take but a moment.
localrules:
    download,
    split,
    card,
    track,


# Snakemake takes results for up to date, whatever they were made with, if it has no record of how,
# or if others were put in the place of those that it made.
options = {argument.partition("=")[0] for argument in sys.argv}
makes_something = workflow.is_main_process and not options & {
    *("--unlock", "--lint", "--summary", "-S", "--detailed-summary", "-D"),
    *("--list", "-l", "--list-rules", "--delete-all-output", "--cleanup-metadata"),
}
forced = options & {"--forcerun", "-R", "--force", "-f"}
all_forced = options & {"--forceall", "-F"}
touched = options & {"--touch", "-t"}
if makes_something and (touched or not all_forced):
    from dmf.stale import listed, unnoticed

    if lines := unnoticed(
        study, Path(workflow.basedir), touched=bool(touched), raw_only=bool(forced)
    ):
        raise WorkflowError(
            f"{Path.cwd()} holds results of other settings, which would be taken for this study's:\n"
            f"{listed(lines)}\nDelete them there (of raw data all of data/raw/<set>), then run the "
            "same command again."
        )
    recorded = touched or forced or Path(".snakemake/metadata").is_dir()
    if not recorded and any(layout.MODELS.glob("*/*/seed-*/run.json")):
        files = " ".join(shlex.quote(str(f)) for f in workflow.overwrite_configfiles)
        command = "snakemake --cores all" + (f" --configfile {files}" if files else "")
        raise WorkflowError(
            "Results are here, but Snakemake's record of how they were made is not "
            "(.snakemake/metadata). After a clone or copy, run "
            f"`{f'{command} --touch --forceall' if files else 'make adopt'}`. Otherwise: "
            f"{command} --forcerun filter split train (finished runs are kept)."
        )


# Snakemake does not know where the user's own archives are; data/raw would silently stay as it was.
# No more than a warning: what is in data/raw can be used, whatever became of the archive.
if makes_something and not (forced or all_forced or touched):
    from dmf.data.download import changed_since

    for dataset in dict.fromkeys([*DATASETS, *EVALUATED_ON]):
        try:
            if path := changed_since(
                dataset, study.download_parameters(dataset), Path(workflow.basedir)
            ):
                print(
                    f"warning: {path} is not what data/raw/{dataset} was made from, which is used as "
                    "it is. To take it over, give the same command the option "
                    f"--forcerun data/raw/{dataset}/manifest.csv",
                    file=sys.stderr,
                )
        except (DmfError, OSError, RuntimeError) as error:
            print(f"warning: {dataset}: {error}", file=sys.stderr)


def all_metrics(datasets):
    """Return the metrics of every run of the study on these data sets."""
    return [
        str(cell.metrics)
        for cell in layout.cells(study.grid)
        if cell.dataset in datasets
    ]


def all_splits(dataset):
    """Return the splits of every seed of the study."""
    return [str(layout.split(dataset, seed)) for seed in study.seeds]


def own_split(dataset, seed):
    """Return the file of a split of one's own: the project's, wherever project and study lie."""
    file = study.split.seen_from(Path(workflow.basedir)).path(dataset, seed)
    return os.path.relpath(os.path.realpath(file)) if file else []


def figure_output(name):
    """Return an output that `snakemake --report` shows, by data set."""
    if not name.endswith(".png"):
        return name
    dataset, _, figure = Path(name).stem.partition("-")
    return report(
        name,
        caption="../report/figure.rst",
        category=f"Figures: {dataset}",
        labels={"figure": TITLES[figure]},
    )
