# Everything runs in a virtual environment of its own; the first target that needs it makes it.
#   make demo     the whole chain on synthetic images, minutes on two cores
#   make test     all tests
#   make check    lint and the unit tests, a minute or so
#   make paper    the paper's study (snakemake --cores all)
#   make explanations   the extra studies that the report's explanations ask for (OVER=config/reduced.yaml
#                 for those of another study than the paper's)
#   make published      pages, tables and figures of reports/published, in build/published
#   make ui       the MLflow pages over the runs (STUDY=config/demo.yaml for the demo's)
#   make adopt    after git clone and dvc pull: take over the results, train nothing
#   make lint     ruff, mypy, snakefmt, snakemake --lint
#   make environment    .venv alone
#   make clean    remove rebuilt pages, logs and caches; studies stay

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
PYTHON ?= python3
VENV ?= .venv
OVER ?=
STUDY ?= $(if $(wildcard mlflow/mlflow.db),params.yaml,config/demo.yaml)
export PATH := $(abspath $(VENV))/bin:$(PATH)
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export DO_NOT_TRACK := true
export DVC_NO_ANALYTICS := 1
export MLFLOW_DISABLE_TELEMETRY := true

.PHONY: demo test check paper explanations published ui adopt lint clean environment

environment: $(VENV)/study.stamp

$(VENV)/study.stamp: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed, this is " + sys.version.split()[0] + "; name another with: make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	@echo "Installing the environment into $(VENV) (once, a few minutes) ..."
	$(VENV)/bin/pip install --quiet --constraint constraints.txt --editable '.[study]'
	touch $@

$(VENV)/dev.stamp: $(VENV)/study.stamp
	@echo "Installing the test tools into $(VENV) ..."
	$(VENV)/bin/pip install --quiet --constraint constraints.txt --editable '.[study,dev]'
	$(VENV)/bin/pip install --quiet --no-deps --constraint constraints.txt monai
	touch $@

demo: $(VENV)/study.stamp
	snakemake --cores all --configfile config/demo.yaml --quiet rules --
	@echo
	@echo "The report:  build/demo/reports/index.html  (open it in a browser)"
	@echo "The runs:    make ui                        (MLflow on http://127.0.0.1:5000)"

test: $(VENV)/dev.stamp
	python -m pytest --numprocesses 2 --dist loadfile

check: lint
	python -m pytest --numprocesses 2 --dist loadfile --ignore tests/end_to_end -m "not slow"

paper: $(VENV)/study.stamp
	snakemake --cores all

# Each of these studies answers one question of the report, which is then written again.
explanations: $(VENV)/study.stamp
	for study in grouped hard released gamma_batch gamma_epoch filter_off; do \
	    snakemake --cores all --configfile $(OVER) config/$$study.yaml -- aggregate; \
	done
	snakemake --cores all $(addprefix --configfile ,$(OVER)) --forcerun report -- report

published: $(VENV)/study.stamp
	dmf rebuild

ui: $(VENV)/study.stamp
	dmf ui --overlay $(STUDY)

adopt: $(VENV)/study.stamp
	dvc status --quiet
	rm -f mlflow/tracked.json
	snakemake --cores all --touch --forceall
	dmf verify

lint: $(VENV)/dev.stamp
	ruff check .
	ruff format --check .
	mypy
	snakefmt --check Snakefile workflow
	snakemake --lint

clean:
	rm -rf build/published logs .pytest_cache .mypy_cache .ruff_cache .hypothesis
