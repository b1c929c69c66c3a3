"""The study, from the archives of its data sets to the report on its claims.

snakemake --cores all                                  the paper's study (params.yaml)
snakemake --cores all --configfile config/demo.yaml    the demo, in build/demo
snakemake --cores all train_busi                       one phase of one data set
snakemake -n                                           what would run, and why
"""

from pathlib import Path

from snakemake.exceptions import WorkflowError
from snakemake.utils import min_version

from dmf.errors import DmfError
from dmf.study import Study

min_version("9.19")


configfile: str(Path(workflow.basedir) / "params.yaml")


try:
    study = Study.from_mapping(config)
except DmfError as error:
    raise WorkflowError(str(error)) from None


workdir: Path(workflow.basedir) / study.study.workdir


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
