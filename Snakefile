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
from snakemake.utils import min_version

try:
    from dmf.errors import DmfError
    from dmf.provenance import foreign_code, package_hash
    from dmf.study import Study
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


envvars:
    "DMF_PROJECT",
    "DMF_CODE",


configfile: str(Path(workflow.basedir) / "params.yaml")


# The files given with --configfile name the study. Snakemake hands them on to the processes of its
# jobs, here and on a cluster.
try:
    study = Study.from_mapping(config, overlays=workflow.overwrite_configfiles)
except DmfError as error:
    raise WorkflowError(str(error)) from None


workdir: Path(workflow.basedir) / study.grid.workdir


# Used only with --software-deployment-method apptainer; the Dockerfile says how to build it.
container: str(Path(workflow.basedir) / "build/dmf.sif")


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
