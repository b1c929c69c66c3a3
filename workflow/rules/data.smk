"""download -> filter -> split.

Makes data/raw/<set>/ (images, masks, manifest), data/filtered/<set>.npz with its description, and
one split for every seed, so that adding a seed changes no other.
"""


rule download:
    output:
        manifest="data/raw/{dataset}/manifest.csv",
        description="data/raw/{dataset}/manifest.json",
    log:
        "logs/download/{dataset}.log",
    benchmark:
        "logs/benchmarks/download/{dataset}.tsv"
    resources:
        mem_mb=1000,
        runtime=120,
    params:
        parameters=lambda wildcards: study.download_parameters(
            wildcards.dataset
        ).model_dump_json(),
        code=code_hash("download"),
    shell:
        ': > {log}; dmf download {wildcards.dataset} --root "$DMF_PROJECT"'
        " --parameters {params.parameters:q} >> {log} 2> >(tee -a {log} >&2)"


rule filter:
    input:
        manifest="data/raw/{dataset}/manifest.csv",
        description="data/raw/{dataset}/manifest.json",
    output:
        arrays="data/filtered/{dataset}.npz",
        description="data/filtered/{dataset}.json",
    log:
        "logs/filter/{dataset}.log",
    benchmark:
        "logs/benchmarks/filter/{dataset}.tsv"
    resources:
        mem_mb=1000,
        runtime=60,
    params:
        parameters=study.filter_parameters().model_dump_json(),
        code=code_hash("filter"),
    shell:
        ": > {log}; dmf filter {wildcards.dataset} --parameters {params.parameters:q}"
        " >> {log} 2> >(tee -a {log} >&2)"


rule split:
    input:
        manifest="data/raw/{dataset}/manifest.csv",
        given=lambda wildcards: own_split(wildcards.dataset, int(wildcards.seed)),
    output:
        split="data/splits/{dataset}/seed-{seed}.csv",
    log:
        "logs/split/{dataset}/seed-{seed}.log",
    benchmark:
        "logs/benchmarks/split/{dataset}/seed-{seed}.tsv"
    resources:
        mem_mb=500,
        runtime=10,
    params:
        # A function, or Snakemake would fill in the placeholders of the file's name.
        parameters=lambda wildcards: study.split.model_dump_json(),
        code=code_hash("split"),
        seed=lambda wildcards: int(wildcards.seed),
    shell:
        ': > {log}; dmf split {wildcards.dataset} {params.seed} --root "$DMF_PROJECT"'
        " --parameters {params.parameters:q}"
        " >> {log} 2> >(tee -a {log} >&2)"


rule card:
    input:
        description="data/filtered/{dataset}.json",
    output:
        report(
            "reports/data/{dataset}.md",
            caption="../report/card.rst",
            category="Data cards",
        ),
    log:
        "logs/card/{dataset}.log",
    benchmark:
        "logs/benchmarks/card/{dataset}.tsv"
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        code=code_hash("card"),
    shell:
        ": > {log}; dmf card {wildcards.dataset} --here >> {log} 2> >(tee -a {log} >&2)"


# Rules with wildcards cannot be asked for by name; these can: download_busi, filter_busi, ...
for dataset in DATASETS:

    rule:
        name:
            f"download_{dataset}"
        input:
            f"data/raw/{dataset}/manifest.csv",

    rule:
        name:
            f"filter_{dataset}"
        input:
            f"data/filtered/{dataset}.json",

    rule:
        name:
            f"split_{dataset}"
        input:
            all_splits(dataset),
