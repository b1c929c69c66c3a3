"""The study, from the archives of its data sets to the report on its claims.

snakemake --cores all                                  the paper's study (params.yaml)
snakemake --cores all --configfile config/demo.yaml    the demo, in build/demo
snakemake --cores all --configfile config/reduced.yaml config/hard.yaml
                                                       reduced_hard, in build/reduced_hard
snakemake --cores all train_busi                       one phase of one data set
snakemake -n                                           what would run, and why
"""

import os
from pathlib import Path

from snakemake.exceptions import WorkflowError
from snakemake.settings.types import DeploymentMethod
from snakemake.utils import min_version

try:
    from dmf.errors import DmfError
    from dmf.provenance import foreign_code, package_hash
    from dmf.study import Study, read_settings
except ImportError as error:
    raise WorkflowError(
        f"This Snakemake's environment has not the code of {workflow.basedir} ({error}). Use the "
        "project's own: `make environment` there, then `source .venv/bin/activate`."
    ) from None

min_version("9.19")

if problem := foreign_code(Path(workflow.basedir)):
    raise WorkflowError(problem)

# The jobs run the `dmf` on their PATH, which refuses to be another project's. The hash is for a
# container that does not show the project.
os.environ["DMF_PROJECT"] = str(workflow.basedir)
os.environ["DMF_CODE"] = package_hash()
# What a notebook asks matplotlib for needs the notebook; figures here go to files.
os.environ["MPLBACKEND"] = "agg"


envvars:
    "DMF_PROJECT",
    "DMF_CODE",
    "MPLBACKEND",


# Snakemake's own reader keeps the last of two equal keys: each file is read strictly beside it. The
# files given with --configfile name the study. Snakemake hands them on to the processes of its jobs,
# here and on a cluster.
params_file = Path(workflow.basedir) / "params.yaml"
try:
    for file in (params_file, *workflow.overwrite_configfiles):
        read_settings(file)
except DmfError as error:
    raise WorkflowError(str(error)) from None


configfile: str(params_file)


try:
    study = Study.from_mapping(
        config,
        overlays=workflow.overwrite_configfiles,
        base=params_file,
        typed=workflow.config_settings.config,
    )
except DmfError as error:
    raise WorkflowError(str(error)) from None


workdir: Path(workflow.basedir) / study.grid.workdir


# The Dockerfile says how to build it. Snakemake takes no image whose path holds a space or a brace.
image = Path(workflow.basedir) / "build/dmf.sif"
if not set(str(image)) & set(" \t{}"):

    container: str(image)

elif DeploymentMethod.APPTAINER in workflow.deployment_settings.deployment_method:
    raise WorkflowError(
        f"Containers work only in a folder without spaces and braces in its path: {image}"
    )


report: "workflow/report/workflow.rst"


include: "workflow/rules/common.smk"
include: "workflow/rules/data.smk"
include: "workflow/rules/train.smk"
include: "workflow/rules/report.smk"


rule all:
    default_target: True
    input:
        "reports/index.html",
        "mlflow/tracked.json",
        expand("reports/data/{dataset}.md", dataset=DATASETS),
