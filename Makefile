# The two commands: `make demo` and `make test`. All targets make their own .venv where there is none.

PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test faults lint bench format install clean

install: .venv/.installed

.venv/.installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

demo: install
	$(BIN)/softpatch demo -o demo

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: lint
	$(BIN)/python -m pytest -q

# every bad input of tests/faults, of which `make test` tries a third
faults: install
	SOFTPATCH_ALL_FAULTS=1 $(BIN)/python -m pytest -q tests/faults

# make bench DATA=FOLDER [BENCH="--weights resnet18.safetensors --anomalib PYTHON"]
bench: install
	test -n "$(DATA)" || { echo "name a folder of one product: make bench DATA=FOLDER"; exit 2; }
	$(BIN)/python benchmarks/performance.py $(DATA) $(BENCH) -o performance.json

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf demo build dist .pytest_cache .mypy_cache .ruff_cache
