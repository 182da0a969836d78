# `make demo` runs the whole loop on the embedded game, `make demo-rl` fine-tunes what comes of it by reinforcement
# learning, `make showcase` trains larger models for films and clips, `make demo-paper` runs the small experiments of the paper's figures, `make test` checks the library, `make audit` looks its packages up among known vulnerabilities.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# Three processes keep two cores busy, since tests wait for games, servers and other programs. Each takes up to 2 GB.
SIDE_BY_SIDE ?= --numprocesses=3 --dist=loadfile --no-loadscope-reorder
INSTALLED := $(VENV)/.installed
# Python keeps what it compiles, wherever the environment forbids it: the next process then starts in half the time.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: demo demo-rl demo-paper showcase test test-all lint docs audit install

install: $(INSTALLED)

$(INSTALLED): setup.cfg pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --no-compile --constraint constraints.txt --editable ".[test]"
# Messages of the OWAMcap format, for its tests, without opencv-python, which overwrites opencv-python-headless.
	$(BIN)/python -m pip install --quiet --no-compile --no-deps owa-msgs==0.6.6 mediaref==1.3.1
	touch $@

demo: $(INSTALLED)
	$(BIN)/python launch/pipeline.py

demo-rl: demo
	$(BIN)/python launch/pipeline_rl.py

showcase: $(INSTALLED)
	$(BIN)/python launch/pipeline.py --config=configs/demo.py:showcase

demo-paper: $(INSTALLED)
	$(BIN)/python launch/paper.py

test: lint
	$(BIN)/python -m pytest -m "not slow" $(SIDE_BY_SIDE)

test-all: lint
	VPT_TEST_OPTIMIZED=1 $(BIN)/python -m pytest

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: $(INSTALLED)
	$(BIN)/mkdocs build --strict

# Status 0: none is known; 1: some are; 2: pip-audit (pip install pip-audit) or the network is missing.
audit: $(INSTALLED)
	$(BIN)/python .ci/audit.py
