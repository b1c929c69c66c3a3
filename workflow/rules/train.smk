"""One job, one run: a data set, a configuration and a seed.

Needs the arrays and the split of the seed. Makes models/<set>/<configuration>/seed-NN/, of which
`metrics.json`, written last, is declared. A complete folder with the same run key is adopted; an
interrupted run continues from its checkpoint in .checkpoints/.
"""


rule train:
    input:
        arrays=ancient("data/filtered/{dataset}.npz"),
        description="data/filtered/{dataset}.json",
        split="data/splits/{dataset}/seed-{seed}.csv",
    output:
        metrics="models/{dataset}/{configuration}/seed-{seed}/metrics.json",
    log:
        "logs/train/{dataset}/{configuration}/seed-{seed}.log",
    benchmark:
        "logs/benchmarks/train/{dataset}/{configuration}/seed-{seed}.tsv"
    threads: study.execution.threads
    resources:
        slot=1,
        mem_mb=lambda wildcards, attempt: 3000 * 2 ** (attempt - 1),
        runtime=lambda wildcards, attempt: 240 * 2 ** (attempt - 1),
    params:
        parameters=lambda wildcards: study.run_parameters(
            wildcards.configuration
        ).model_dump_json(),
        code=code_hash("train"),
        seed=lambda wildcards: int(wildcards.seed),
    # A scheduler that ends a job signals every process of it. `exec` and the trap leave the training
    # the time to save its checkpoint: no shell dies before it.
    shell:
        ": > {log}; exec dmf train {wildcards.dataset} {wildcards.configuration} {params.seed}"
        ' --parameters {params.parameters:q} --execution "$DMF_EXECUTION"'
        " >> {log} 2> >(trap '' INT TERM; exec tee -a {log} >&2)"


for dataset in DATASETS:

    rule:
        name:
            f"train_{dataset}"
        input:
            all_metrics([dataset]),
