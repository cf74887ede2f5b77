# The two commands: `make demo` and `make test`. All targets make their own .venv where there is none.

PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test faults lint bench docs site dist sbom format install clean

install: .venv/.installed

.venv/.installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,docs]'
	touch $@

demo: install
	$(BIN)/softpatch demo -o demo

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	! test -x $(BIN)/hadolint || $(BIN)/hadolint packaging/Containerfile

test: lint site
	$(BIN)/python -m pytest -q -n 2 --dist worksteal

# the numbers and pictures of README.md and docs/, from the rows that are kept and from the demo
docs: install
	$(BIN)/python benchmarks/make_docs.py --demo demo

# docs/ as web pages in build/site; a link that leads nowhere is an error
site: install
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

# the wheel and the source archive of this commit in dist/, and a try of the wheel in an environment of its own
dist: install
	rm -rf dist build/installed build/tried
	$(BIN)/python packaging/dist.py
	$(PYTHON) -m venv build/installed
	build/installed/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt "$$(echo dist/*.whl)[serve,mqtt]"
	mkdir build/tried
	cd build/tried && ../installed/bin/softpatch --version && ../installed/bin/softpatch demo -o demo
	cd build/tried && ../installed/bin/softpatch fit demo/images/train -o flange.safetensors
	cd build/tried && ../installed/bin/softpatch predict flange.safetensors demo/images/test -o results

# what the wheel was installed with, and the licences, for tools that read CycloneDX
sbom: dist
	$(PYTHON) -m venv build/sbom
	build/sbom/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt cyclonedx-bom
	build/sbom/bin/cyclonedx-py environment --pyproject pyproject.toml --output-reproducible --gather-license-texts -o dist/softpatch.cdx.json build/installed/bin/python

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
