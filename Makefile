# `make demo` and `make test` set up everything themselves, in .venv.

PYTHON ?= python3
BIN := .venv/bin
# Every test uses one thread: on two cores, two at a time.
PYTEST := $(BIN)/pytest -n 2 --dist worksteal
READY := .venv/ready
DEMO ?=
PAPER ?=
# A folder with wheels of FAISS for the machine with a card, see benchmarks/gpu_pack.py.
GPU_WHEELS ?=

.PHONY: help demo test jury stress lint format typecheck docs view dist bench paper gpu-pack clean

demo: $(READY)  ## train on real images, compare, write runs/demo/report.html
	$(BIN)/faiss-pqvae demo $(DEMO)

test: $(READY)  ## the tests; of those marked jury each value once
	$(PYTEST)

jury: $(READY)  ## the tests, in every combination
	$(PYTEST) --jury

stress: $(READY)  ## 10,000 mutated bundles, of which `test` tries a part
	FAISS_PQVAE_HOSTILE=10000 $(BIN)/pytest tests/faiss_pqvae/native/files/test_hostile_files.py

lint: $(READY)  ## ruff: rules and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(READY)  ## what ruff can put right by itself
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The tree itself, seen under the names it is installed by: no tool follows the editable install.
VIEW := build/view/faiss_pqvae
view:
	rm -rf build/view
	mkdir -p $(VIEW)
	ln -s $(addprefix $(CURDIR)/,$(filter-out %/__pycache__,$(wildcard faiss_pqvae/*)) training eval) $(VIEW)

typecheck: $(READY) view  ## mypy, strict
	cd build/view && ../../$(BIN)/mypy --config-file ../../pyproject.toml faiss_pqvae

docs: .venv/docs view  ## the site, in build/site; a broken link or an undocumented name fails
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet

.venv/docs: $(READY)
	$(BIN)/pip install --quiet --progress-bar off -c constraints.txt -e ".[docs]"
	touch $@

dist: .venv/release  ## dist/: source archive and wheel, as a package index takes them
	rm -f dist/faiss_pqvae-*
	$(BIN)/python -m build --no-isolation > /dev/null
	$(BIN)/twine check --strict dist/faiss_pqvae-*

.venv/release: $(READY)
	$(BIN)/pip install --quiet --progress-bar off -c constraints.txt -e ".[release]"
	touch $@

bench: $(READY)  ## speed and memory; writes results/benchmarks.json
	$(BIN)/python benchmarks/run.py

paper: $(READY)  ## train and draw figures 1 to 4 of the paper; MNIST, see README
	$(BIN)/python benchmarks/draw_paper.py $(PAPER)

gpu-pack: $(READY)  ## dist/gpu-pack.tar.gz: what checks a card takes along
	$(BIN)/python benchmarks/gpu_pack.py $(if $(GPU_WHEELS),--gpu-wheels $(GPU_WHEELS))

help:  ## this list
	@awk -F ':.*## ' '/^[a-z-]+:/ {sub(/:.*/, "", $$1); printf "%-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

clean:  ## remove the environment and everything that was built
	rm -rf .venv build dist *.egg-info runs

$(READY): setup.py pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.11")'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --progress-bar off -c constraints.txt -e ".[cpu,eval,demo,scale,backbone,dev]"
	touch $@
