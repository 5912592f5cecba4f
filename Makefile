# `make help` lists the targets. All of them work in .venv and .cache of this checkout and touch nothing else of the user's.
#
# Set-up is kept by stamps in .venv, each made last: a second `make` installs nothing, a change of pyproject.toml or
# constraints.txt installs what is new. An installation that was cut off leaves .venv/.installing; the next `make` then
# makes .venv afresh, for pip would take a half-copied package for a whole one.

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --no-input
REQUIREMENTS := pyproject.toml setup.py constraints.txt

PYTHON ?=
# One more than the cores of the smallest machine, since many tests wait for processes.
WORKERS ?= 3
PYTEST_ARGS ?=
ARGS ?=

# Caches that would otherwise land in the home folder. Set one in the environment to share it between checkouts.
export PIP_CACHE_DIR ?= $(CURDIR)/.cache/pip
export FILESET_CACHE_DIR ?= $(CURDIR)/.cache/fileset
export KERAS_HOME ?= $(CURDIR)/.cache/keras
export MPLCONFIGDIR ?= $(CURDIR)/.cache/matplotlib
# A user's pip or Python settings that would install or import past .venv.
export PIP_USER := 0
export PYTHONNOUSERSITE := 1
unexport PYTHONHOME PYTHONPATH PIP_TARGET PIP_PREFIX
# pip compiles nothing, which takes a minute; so what the first process compiles is to be kept for the others, of which
# tests start hundreds: importing Lightning takes 8 s of processor time then, and 23 s without.
unexport PYTHONDONTWRITEBYTECODE

# .venv is looked at again if an installation was cut off, its interpreter is gone, or the checkout has moved: scripts in
# .venv/bin hold absolute paths.
MADE_IN := $(shell cat $(VENV)/.stamp-venv 2>/dev/null)
LOOK_AGAIN := $(if $(wildcard $(VENV)/.installing),FORCE)$(if $(wildcard $(BIN)/python),,FORCE)$(if $(filter-out $(subst $() ,?,$(CURDIR)),$(subst $() ,?,$(MADE_IN))),FORCE)

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.NOTPARALLEL:
.PHONY: help train test soak lint format types docs bench wheel dev clean distclean FORCE

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

train: $(VENV)/.stamp-train  ## set up what training needs, and train the flights model (ARGS="trainer.max_epochs=1" overrides)
	$(BIN)/fileset-train experiment=flights $(ARGS)

test: $(VENV)/.stamp-dev  ## every behaviour, with small counts (PYTEST_ARGS="-k plan -n 0" selects)
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder $(PYTEST_ARGS)

soak: $(VENV)/.stamp-dev  ## the same tests with the full counts: takes long
	FILESET_SOAK=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder --timeout 7200 $(PYTEST_ARGS)

lint: $(VENV)/.stamp-dev  ## ruff: rules and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(VENV)/.stamp-dev  ## ruff: mend what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: $(VENV)/.stamp-dev  ## mypy --strict
	$(BIN)/mypy

# Built from a copy: beside its config, Zensical keeps files in a `.cache`, which is ours here, and its --clean empties that.
docs: $(VENV)/.stamp-dev  ## the documentation site, in .cache/docs/site; a warning is an error
	rm -rf .cache/docs && mkdir -p .cache/docs && cp -R zensical.toml docs .cache/docs/
	@cd .cache/docs && "$(CURDIR)/$(BIN)/python" -m zensical build --strict
	@echo "Open .cache/docs/site/index.html"

bench: $(VENV)/.stamp-dev  ## ours against peers, as ratios
	$(BIN)/python -m benchmarks $(ARGS)

wheel: $(VENV)/.stamp-dev  ## build dist/*.whl
	rm -rf build dist *.egg-info
	$(BIN)/python -m build --quiet --wheel --no-isolation --outdir dist .
	@ls dist/*.whl

dev: $(VENV)/.stamp-dev  ## set up everything that the other targets need

clean:  ## remove builds and caches; data/ and outputs/ stay
	rm -rf build dist *.egg-info .hypothesis .cache/docs .cache/mypy .cache/pytest .cache/ruff
	find . -name __pycache__ -type d -not -path './$(VENV)/*' -prune -exec rm -rf {} +

distclean: clean  ## remove .venv and .cache too
	rm -rf $(VENV) .cache

# $(call install,COMMANDS): the mark goes when pip ends by itself, well or not (it then undoes what it began); the trap
# keeps it when make is interrupted.
install = @trap 'exit 130' HUP INT TERM; touch $(VENV)/.installing; { $(1); }; status=$$?; rm -f $(VENV)/.installing; exit $$status

# torch comes first and alone: lightning's own range would take the newest torch, with gigabytes of CUDA packages on Linux.
# Nothing is compiled at installation: Python compiles what is imported, when it first is, and that is a small part.
packages = $(call install,$(PIP) install -q --no-compile -c constraints.txt torch && $(PIP) install -q --no-compile -c constraints.txt -e '.[$(1)]')

$(VENV)/.stamp-train: $(VENV)/.stamp-venv $(REQUIREMENTS)
	@echo "Installing what training needs into $(VENV): a few minutes the first time."
	$(call packages,recipes)
	@touch $@

# dev holds recipes, so that whoever tests first installs once.
$(VENV)/.stamp-dev: $(VENV)/.stamp-venv $(REQUIREMENTS)
	@echo "Installing what training and development need, all frameworks among it, into $(VENV): some minutes the first time."
	$(call packages,dev)
	@touch $(VENV)/.stamp-train $@

# A .venv that works is used as it is, whoever made it.
$(VENV)/.stamp-venv: $(LOOK_AGAIN)
	@if [ ! -e $(VENV)/.installing ] && { [ -z "$(MADE_IN)" ] || [ "$(MADE_IN)" = "$(CURDIR)" ]; } \
	    && $(BIN)/python -c 'import sys, pip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
	  echo "$(CURDIR)" > $@; exit 0; \
	fi; \
	for python in $(PYTHON) python3.11 python3.12 python3.13 python3; do \
	  if "$$python" -c 'import sys, ensurepip, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
	    echo "Making $(VENV) with $$("$$python" --version)."; \
	    "$$python" -m venv --clear --without-pip $(VENV) && touch $(VENV)/.installing \
	      && $(BIN)/python -m ensurepip --default-pip >/dev/null && rm $(VENV)/.installing && echo "$(CURDIR)" > $@; exit $$?; \
	  fi; \
	done; \
	echo "No Python 3.11 or newer with the venv module was found (tried:$(if $(PYTHON), $(PYTHON)) python3.11 python3.12 python3.13 python3)." >&2; \
	echo "Install one (on Debian and Ubuntu: python3 and python3-venv), or name it: make PYTHON=/path/to/python3 $(MAKECMDGOALS)" >&2; \
	exit 1

FORCE:
