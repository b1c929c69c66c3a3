"""evaluate, aggregate -> figures -> report, and the runs into MLflow.

Needs the metrics of every run of the study. Makes the scores on sets that the runs were not trained
on, reports/results.csv, reports/metrics.json, the figures, the tables, the page, and
mlflow/tracked.json, which lists what MLflow has.
"""


rule evaluate:
    input:
        lambda wildcards: all_metrics(set(DATASETS) - {wildcards.dataset}),
        manifest="data/raw/{dataset}/manifest.csv",
        description="data/raw/{dataset}/manifest.json",
    output:
        "reports/evaluations/{dataset}.csv",
    log:
        "logs/evaluate/{dataset}.log",
    benchmark:
        "logs/benchmarks/evaluate/{dataset}.tsv"
    resources:
        mem_mb=4000,
        runtime=240,
    params:
        parameters=study.grid.model_dump_json(),
        code=code_hash("evaluate"),
    shell:
        ": > {log}; dmf evaluate --dataset {wildcards.dataset} --parameters {params.parameters:q}"
        " >> {log} 2> >(tee -a {log} >&2)"


rule aggregate:
    input:
        all_metrics(DATASETS),
    output:
        results="reports/results.csv",
        metrics="reports/metrics.json",
        curves="reports/curves.csv",
    log:
        "logs/aggregate.log",
    benchmark:
        "logs/benchmarks/aggregate.tsv"
    resources:
        mem_mb=1000,
        runtime=30,
    params:
        parameters=study.grid.model_dump_json(),
        code=code_hash("aggregate"),
    shell:
        ": > {log}; dmf aggregate --parameters {params.parameters:q} >> {log} 2> >(tee -a {log} >&2)"


rule figures:
    input:
        results="reports/results.csv",
    output:
        [figure_output(name) for name in FIGURES],
    log:
        "logs/figures.log",
    benchmark:
        "logs/benchmarks/figures.tsv"
    resources:
        mem_mb=2000,
        runtime=60,
    params:
        parameters=lambda wildcards: study.report_parameters().model_dump_json(),
        code=code_hash("report"),
    shell:
        ": > {log}; dmf figures --parameters {params.parameters:q} >> {log} 2> >(tee -a {log} >&2)"


rule report:
    input:
        expand("reports/evaluations/{dataset}.csv", dataset=EVALUATED_ON),
        results="reports/results.csv",
        figures=FIGURES,
    output:
        page=report(
            "reports/index.html", caption="../report/page.rst", category="The report"
        ),
        markdown="reports/report.md",
        tables=report(
            directory("reports/tables"),
            patterns=["{table}.csv"],
            caption="../report/table.rst",
            category="Tables",
        ),
    log:
        "logs/report.log",
    benchmark:
        "logs/benchmarks/report.tsv"
    resources:
        mem_mb=2000,
        runtime=60,
    params:
        parameters=lambda wildcards: study.report_parameters().model_dump_json(),
        code=code_hash("report"),
    shell:
        ": > {log}; dmf report --parameters {params.parameters:q} >> {log} 2> >(tee -a {log} >&2)"


rule track:
    input:
        all_metrics(DATASETS),
        page="reports/index.html",  # which the description of each experiment links to
    output:
        "mlflow/tracked.json",
    log:
        "logs/track.log",
    benchmark:
        "logs/benchmarks/track.tsv"
    resources:
        mem_mb=2000,
        runtime=60,
    params:
        parameters=lambda wildcards: study.report_parameters().model_dump_json(),
    shell:
        ": > {log}; dmf track --parameters {params.parameters:q} >> {log} 2> >(tee -a {log} >&2)"
