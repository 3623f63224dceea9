PYTHON ?= python3.11
VENV ?= .venv
BIN := $(VENV)/bin
DEMO ?= runs/demo
# Two processes fit two cores; loadfile keeps a file's compilations in one of them.
PYTEST := python -m pytest -n 2 --dist loadfile

.PHONY: install demo docs notebooks test test-all test-browser test-oldest lint format bench accelerator dist clean

install: $(VENV)/installed

$(VENV)/installed: setup.cfg pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[test]'
	touch $@

demo: install
	$(BIN)/python main.py --config=configs/image.py:cpu --workdir=$(DEMO)

# A site of docs/, in build/docs; any warning is an error.
docs: install
	$(BIN)/python -m pip install --quiet --editable '.[docs]'
	$(BIN)/python -m sphinx --fail-on-warning --keep-going --quiet docs build/docs

# Runs docs/notebooks/*.py, and keeps what they show beside them.
notebooks: install
	$(BIN)/python -m pip install --quiet --editable '.[docs]'
	cd docs/notebooks && MPLBACKEND=module://matplotlib_inline.backend_inline \
	  $(abspath $(BIN))/jupytext --to ipynb --execute *.py

test: install
	$(BIN)/$(PYTEST) -m "not slow"

test-all: install
	$(BIN)/$(PYTEST)

# What a browser shows; Chromium is the system's.
test-browser: install
	$(BIN)/python -m pip install --quiet --editable '.[demo,browser]'
	$(BIN)/python -m pytest tests/demo tests/reporting

# The lowest versions that setup.cfg admits.
test-oldest:
	$(PYTHON) -m venv $(VENV)-oldest
	$(VENV)-oldest/bin/python -m pip install --quiet --upgrade pip
	$(PYTHON) .ci/oldest.py > $(VENV)-oldest/pins.txt
	$(VENV)-oldest/bin/python -m pip install --quiet --editable '.[test]' \
	  --requirement $(VENV)-oldest/pins.txt
	$(VENV)-oldest/bin/$(PYTEST) -m "not slow"

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: install
	$(BIN)/python experiments/speed.py --scale=cpu --output=runs/speed

# At most nine minutes on a device, whose libraries the extra brings: cuda, or EXTRA=tpu.
EXTRA ?= cuda
accelerator: install
	$(BIN)/python -m pip install --quiet --editable '.[$(EXTRA)]'
	$(BIN)/python experiments/accelerator.py --output=runs/accelerator

# sdist and wheel of what is committed.
dist: install
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	rm -rf dist build/source
	mkdir -p build/source
	git archive HEAD | tar -x -C build/source
	$(BIN)/python -m build --outdir dist build/source
	$(BIN)/python -m twine check --strict dist/*

clean:
	rm -rf $(VENV) $(VENV)-oldest build dist runs
