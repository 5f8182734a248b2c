# `make demo` and `make test` set up everything themselves, in .venv.

PYTHON ?= python3
BIN := .venv/bin
READY := .venv/ready
DEMO ?=
PAPER ?=

# Threads that wait sleep: on a busy machine spinning ones take the processor from those that work.
export OMP_WAIT_POLICY ?= passive

.PHONY: demo test stress lint format typecheck bench paper clean

demo: $(READY)  ## train on real images, compare, write runs/demo/report.html
	$(BIN)/faiss-pqvae demo $(DEMO)

test: $(READY)
	$(BIN)/pytest

stress: $(READY)  ## 10,000 mutated bundles, of which `test` tries a part
	FAISS_PQVAE_HOSTILE=10000 $(BIN)/pytest tests/faiss_pqvae/test_hostile_files.py

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# mypy cannot follow the editable install: it checks an installed copy.
typecheck: $(READY)
	rm -rf build
	$(BIN)/pip install --quiet --no-deps --target build/typecheck .
	cd build/typecheck && ../../$(BIN)/mypy --config-file ../../pyproject.toml faiss_pqvae

bench: $(READY)
	$(BIN)/python benchmarks/run.py

paper: $(READY)  ## train and draw figures 1 to 4 of the paper; MNIST, see README
	$(BIN)/python benchmarks/paper.py $(PAPER)

clean:
	rm -rf .venv build dist *.egg-info runs

$(READY): setup.py pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.11")'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --progress-bar off -c constraints.txt -e ".[cpu,eval,demo,dev]"
	touch $@
