# `make demo` and `make test` are all a fresh machine needs (Python >= 3.11, make, the package index).
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
RUN    ?= runs/demo
DEMO   ?=

.PHONY: install demo test test-slow test-all lint format docs bench clean

install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable ".[dev]"
	touch $@

demo: install  ## the whole method on the bundled model, beside the model before it and two simpler rewards
	$(BIN)/srum ablate --adapter bagel --preset shapes --arms base,sft,sparse,full --seeds 1 --out $(RUN) $(DEMO)

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal --durations=15

test: CHOSEN := -m "not slow"
test: install  ## the fast tests, with lint and types beside them
test-all: install  ## everything
test test-all:
	@log=$$(mktemp); $(MAKE) --no-print-directory lint >$$log 2>&1 & lint=$$!; \
	$(PYTEST) $(CHOSEN); tests=$$?; \
	wait $$lint; lint=$$?; cat $$log; rm -f $$log; exit $$((tests | lint))

test-slow: install
	$(PYTEST) -m slow

docs: install  ## the site, in site/; tests/test_docs.py follows its pages
	$(BIN)/python -m sphinx -W -q -b html docs site
	@echo "The site is in site/index.html"

bench: install
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -p no:xdist benchmarks/speed --benchmark-columns=min,median,iqr,rounds

clean:
	rm -rf build dist runs site .mypy_cache .ruff_cache .pytest_cache .hypothesis .benchmarks
