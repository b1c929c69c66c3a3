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
# The project's folder may have spaces, quotes and braces in its path; VENV is a name inside it, or an
# absolute path without spaces.
PYTHON ?= python3
VENV ?= .venv
OVER ?=
STUDY ?= $(if $(wildcard mlflow/mlflow.db),params.yaml,config/demo.yaml)
export PATH := $(if $(filter /%,$(VENV)),$(VENV),$(CURDIR)/$(VENV))/bin:$(PATH)
# DVC unpickles what lies in its site cache, which is else a folder that every user may write to.
export DVC_SITE_CACHE_DIR := $(CURDIR)/.dvc/tmp/site
# Snakemake and matplotlib want a cache; some containers and services have no HOME to keep it in.
ifneq ($(shell test -w "$$HOME" || echo no),)
export XDG_CACHE_HOME ?= $(CURDIR)/.snakemake/cache
export MPLCONFIGDIR ?= $(CURDIR)/.snakemake/cache/matplotlib
endif
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export DO_NOT_TRACK := true
export DVC_NO_ANALYTICS := 1
export MLFLOW_DISABLE_TELEMETRY := true

.PHONY: demo test check paper explanations published ui adopt lint clean environment

environment: $(VENV)/study.stamp

# One `make` at a time installs, where the system can tell.
LOCK := $(if $(shell command -v flock),flock $(VENV)/lock)
PIP := $(LOCK) $(VENV)/bin/python -m pip install --quiet

# torch by its version: the index may have it for CPUs, CUDA or ROCm. All else by PyPI's hashes.
$(VENV)/study.stamp: pyproject.toml constraints.txt requirements/study.txt
	$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14) and "Python 3.11 to 3.13 is needed, this is " + sys.version.split()[0] + "; name another with: make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	@echo "Installing the environment into $(VENV) (once, a few minutes) ..."
	$(PIP) --constraint constraints.txt torch
	$(PIP) --no-deps --require-hashes --requirement requirements/study.txt
	$(PIP) --no-deps --no-build-isolation --editable .
	$(VENV)/bin/dvc config --local core.site_cache_dir "$$DVC_SITE_CACHE_DIR"
	if ! git rev-parse --git-dir > /dev/null 2>&1; then \
	    echo "No git here: DVC works without it, and runs record no commit."; \
	    $(VENV)/bin/dvc config --local core.no_scm true; \
	fi
	touch $@

$(VENV)/dev.stamp: $(VENV)/study.stamp requirements/dev.txt
	@echo "Installing the test tools into $(VENV) ..."
	$(PIP) --no-deps --require-hashes --requirement requirements/dev.txt
	touch $@

demo: $(VENV)/study.stamp
	snakemake --cores all --configfile config/demo.yaml --quiet rules --
	@echo
	@echo "The report:  build/demo/reports/index.html  (open it in a browser)"
	@echo "The runs:    make ui STUDY=config/demo.yaml (MLflow on http://127.0.0.1:5000)"

# Three at a time keep two cores busy: some tests wait, for SLURM or a server. Files start in the order
# of their names: by their number of tests, the longest would start last.
test: $(VENV)/dev.stamp
	python -m pytest --numprocesses 3 --dist loadfile --no-loadscope-reorder

check: lint
	python -m pytest --numprocesses 2 --dist loadfile --ignore tests/end_to_end -m "not slow"

paper: $(VENV)/study.stamp
	snakemake --cores all

# Each of these studies answers one question of the report, which is then written again. The images of
# the reduced study are half the size already.
EXPLANATIONS = grouped hard released gamma_batch gamma_epoch filter_off flips linear_rate equal_batches \
    no_skips $(if $(filter %reduced.yaml,$(OVER)),,half_size)
explanations: $(VENV)/study.stamp
	for study in $(EXPLANATIONS); do \
	    snakemake --cores all --configfile $(OVER) config/$$study.yaml -- aggregate; \
	done
	snakemake --cores all $(if $(OVER),--configfile $(OVER)) --forcerun report -- report

published: $(VENV)/study.stamp
	dmf rebuild

ui: $(VENV)/study.stamp
	dmf ui $(addprefix --overlay ,$(STUDY))

adopt: $(VENV)/study.stamp
	dvc status --quiet || { \
	    echo "error: what is here is not what dvc.lock says. \`dvc status\` names it; \`dvc pull\` fetches it," \
	        "\`dvc commit\` keeps yours. In a copy without git: dvc config --local core.no_scm true"; \
	    exit 1; \
	} >&2
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
