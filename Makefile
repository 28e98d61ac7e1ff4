# Needs Python 3.11 or newer and make; everything else goes into .venv. `make help` lists what there is.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.NOTPARALLEL:
.DEFAULT_GOAL := help

PYTHON ?= python3
STUDY ?= config/demo.yaml
# With LOCKED=1 exactly the packages of locks/, checked by their hashes; otherwise the newest in the ranges of pyproject.toml.
LOCKED ?=
VENV := .venv$(if $(LOCKED),-locked)
INSTALL := $(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --no-input
# A variable, as `call` takes every comma that it sees for the end of an argument.
EXTRAS := [full,cluster,dev]
install = $(if $(LOCKED),$(INSTALL) --require-hashes --requirement locks/$(1).txt && \
  $(INSTALL) --no-deps --no-build-isolation --editable .,$(INSTALL) --editable '.$(2)')
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)

.PHONY: help demo test test-all flower suites lint docs audit lock bench bench-gpu clean

help: ## list the commands
	@grep -hE '^[a-z-]+:.*##' Makefile | sed -E 's/:.*## /\t/' | expand -t 12

demo: $(VENV)/core.stamp ## make the paper's tables and figures in miniature, in minutes (STUDY=config/cpu.yaml: another study; LOCKED=1: the packages in locks/)
	@apfl check $(STUDY)
	snakemake --configfile=$(STUDY)

test: $(VENV)/full.stamp ## run the quick tests, in minutes
	python -m pytest --quiet -n auto --dist loadfile --no-loadscope-reorder -m "not slow"

test-all: $(VENV)/full.stamp ## run the slow tests: killed and resumed runs, fuzzed files, a real Slurm, a browser
	python -m pytest --quiet -n auto --dist worksteal -m slow

flower: $(VENV)/core.stamp .venv-flower/flower.stamp ## install Flower's environment, for the method external/flower without conda

SUITES := flower pfl fedlab fedjax
suites: $(VENV)/full.stamp ## install other suites for make bench, each in its own environment
	@for suite in $(SUITES); do $(MAKE) --no-print-directory .venv-$$suite/$$suite.stamp \
	  || echo "$$suite cannot be installed here; make bench leaves it out" >&2; done

lint: $(VENV)/full.stamp ## check the code: ruff, snakefmt, snakemake --lint, hadolint, mypy, the direction of imports
	ruff check .
	ruff format --check .
	snakefmt --check Snakefile workflow
	snakemake --lint
	lint-imports
	mypy
	hadolint Containerfile

# As one tree, so that links are the same on the site as in a checkout. To look at it: python -m http.server -d build/site
PAGES := README.md CITATION.cff docs config workflow/schemas results/paper_scale results/small results/reference results/reference_ten_seeds apfl/paper/verdict/claims.yaml
docs: $(VENV)/docs.stamp ## build the documentation as a site, in build/site; a broken link is an error
	rm -rf build/pages && mkdir -p build/pages
	tar -cf - $(PAGES) | tar -xf - -C build/pages
	NO_MKDOCS_2_WARNING=1 mkdocs build --strict

audit: $(VENV)/full.stamp ## look for known vulnerabilities in the installed packages, if the network allows it
	python .ci/audit.py

lock: $(VENV)/full.stamp ## write locks/: every package with its version and hashes, in the versions of results/reference
	python .ci/lock.py

# BENCH=--quick is a trial; the benchmarks are those of benchmarks/bench_*.py.
bench: $(VENV)/full.stamp ## measure what the suite costs, as ratios within one run, for docs/performance.md
	@mkdir -p build
	python -m pytest benchmarks -o python_files='bench_*.py' -o python_functions='bench_*' $(BENCH) \
	  --benchmark-json build/performance.json --benchmark-columns median,rounds
	python -m benchmarks.performance build/performance.json

bench-gpu: $(VENV)/full.stamp ## on a GPU, in ten minutes at most: run the stacked tests, figures and profile, then runs at the paper's scale
	python -m benchmarks.gpu

# Made by way of the archive, so that what is committed is what the archive gives; where the data lie does not matter.
# The study as it was run stands where the commands that it prints look for it.
reference: STUDY = grid
PACKED = results/reference$(addprefix _,$(filter-out grid,$(STUDY)))
ARCHIVED = config/$(STUDY).yaml
RUNS := results
MADE = $(ARCHIVED) --partial --results . --out .
reference: export APFL_DATA_ROOT = unpacked
reference: export APFL_SEMANTICS_ROOT = unpacked
reference: $(VENV)/full.stamp ## make results/reference from the finished runs of config/grid.yaml under results/ (RUNS=FOLDER: elsewhere)
	snakemake --configfile=$(ARCHIVED) results/$(STUDY)/study.json
	apfl pack results/$(STUDY)/study.json --results $(RUNS) --out $(PACKED)
	rm -rf build/reference
	apfl unpack $(PACKED) --out build/reference
	install -D build/reference/$(STUDY)/study.json build/reference/$(ARCHIVED)
	cd build/reference && apfl tables $(MADE)/tables
	cd build/reference && apfl figures $(MADE)/figures
	cd build/reference && apfl claims $(MADE)/verdict
	cd build/reference && apfl report $(ARCHIVED) --results . --out ../../$(PACKED)/report.html
	cd build/reference && find tables figures verdict \( -name '*.csv' -o -name '*.md' -o -name '*.svg' \) \
	  -exec install -D -m 644 {} ../../$(PACKED)/{} \;
	python -m tests.documents

clean: ## remove .venv, .venv-locked and build; results/ stays
	rm -rf .venv .venv-locked build *.egg-info

# Stamps depend on pyproject.toml, so that a second make installs nothing. The registry's torch comes with CUDA and works
# without a GPU too; its torchvision is built for it, which one from another index would not be.
$(VENV)/core.stamp: pyproject.toml | $(VENV)/bin/pip
	@echo "Installing into $(VENV), once (torch is some GB) ..."
	$(call install,core)
	@touch $@

$(VENV)/full.stamp: pyproject.toml | $(VENV)/bin/pip
	@echo "Installing into $(VENV) with all extras, once (torch is some GB) ..."
	$(call install,full,$(EXTRAS))
	@touch $@ $(VENV)/core.stamp

# The site is made from the sources of the code, so that it needs nothing of what the code needs.
$(VENV)/docs.stamp: pyproject.toml | $(VENV)/bin/pip
	$(INSTALL) $$($(VENV)/bin/python -c 'import tomllib; print(*tomllib.load(open("$<", "rb"))["project"]["optional-dependencies"]["docs"])')
	@touch $@

# Flower's own packages, and beneath them those of .venv, so that torch is not installed a second time.
.venv-flower/flower.stamp: workflow/rules/external/flower.yml | $(VENV)/core.stamp
	@$(PYTHON) -m venv .venv-flower
	@$(VENV)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))' \
	  > "$$(.venv-flower/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/suite.pth"
	.venv-flower/bin/python -m pip install --quiet --disable-pip-version-check --no-input \
	  $$($(VENV)/bin/python -c 'import yaml; print(*yaml.safe_load(open("$<"))["dependencies"][-1]["pip"])')
	@touch $@

# Likewise other suites. The constraint keeps them from another torch; what else they want in other versions is theirs.
# FedJAX needs jax.tree_map, which JAX 0.6 removed.
.venv-pfl/pfl.stamp: PACKAGES := 'pfl[pytorch]==0.6.0'
.venv-fedlab/fedlab.stamp: PACKAGES := fedlab==1.3.0
.venv-fedjax/fedjax.stamp: PACKAGES := fedjax==0.0.17 'jax<0.6'
.venv-pfl/pfl.stamp .venv-fedlab/fedlab.stamp .venv-fedjax/fedjax.stamp: | $(VENV)/full.stamp
	@$(PYTHON) -m venv $(@D)
	@$(VENV)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))' \
	  > "$$($(@D)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/suite.pth"
	@$(VENV)/bin/python -c 'from importlib.metadata import version; print("torch==" + version("torch"))' > $(@D)/constraints.txt
	$(@D)/bin/python -m pip install --quiet --disable-pip-version-check --no-input -c $(@D)/constraints.txt $(PACKAGES)
	@touch $@

$(VENV)/bin/pip:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "$(PYTHON) is older than Python 3.11; name another one: make PYTHON=python3.12 ..." >&2; exit 2; }
	@$(PYTHON) -m venv $(VENV) \
	  || { echo "$(PYTHON) cannot make virtual environments; on Debian: apt-get install python3-venv" >&2; exit 2; }
