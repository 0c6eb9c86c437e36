.PHONY: all venv derived lint types test bench demo

VENV ?= .venv
BIN := $(VENV)/bin

all: lint types test

venv: $(BIN)/pytest

$(BIN)/pytest: pyproject.toml ops/constraints.txt
	python3 -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint ops/constraints.txt --editable '.[test]'
	touch $@

derived: venv
	$(BIN)/python ops/derived.py
	$(BIN)/python ops/domains_page.py

lint: venv
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: venv
	$(BIN)/mypy
	$(BIN)/mypy benchmarks/*.py

test: venv
	$(BIN)/pytest

bench: venv
	$(BIN)/python benchmarks/run.py
	$(BIN)/python benchmarks/coherence.py
	$(BIN)/python benchmarks/near.py
	$(BIN)/python benchmarks/worker.py
	$(BIN)/python benchmarks/candles.py
	$(BIN)/python benchmarks/lists.py
	$(BIN)/python benchmarks/engine.py
	$(BIN)/python benchmarks/aio.py

demo: venv
	$(BIN)/bkm demo
