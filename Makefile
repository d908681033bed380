# Two commands do all the set-up on a fresh machine: `make demo` and `make test`.
PYTHON ?= python3
PY := .venv/bin/python

.PHONY: help install dev scenes rooms demo demo-all showcase minipaper test test-slow faults check format bench gpu clean
help: ## show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'

.venv/installed: requirements.txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info)' || { echo "error: $(PYTHON): Python 3.11 or newer is needed; run make with PYTHON=python3.12 or the like" >&2; exit 2; }
	test -x $(PY) || $(PYTHON) -m venv .venv
	$(PY) -m pip install --quiet --disable-pip-version-check -r requirements.txt
	@touch $@

.venv/installed-dev: .venv/installed requirements-dev.txt requirements-export.txt requirements-demo.txt
	$(PY) -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	@touch $@

.venv/installed-demo: .venv/installed requirements-demo.txt
	$(PY) -m pip install --quiet --disable-pip-version-check -r requirements-demo.txt
	@touch $@

install: .venv/installed ## make .venv with all that training needs
dev: .venv/installed-dev ## add all that development needs

scenes: install ## write the embedded scenes to data/scenes in the layouts of ADE20K, COCO and NYU
	$(PY) -m tools.make_scenes --root data/scenes

rooms: .venv/installed-demo ## write easy scenes, with fewer and larger objects, to data/rooms
	$(PY) -m tools.make_scenes --root data/rooms --difficulty easy --height 192 --width 256 --val 40

demo: demo-seg ## train, score and draw a small SegFormer with DySample on the easy scenes
demo-all: demo-seg demo-det demo-inst demo-pan demo-depth ## the same for all five tasks; for one task: make demo-det
	$(PY) -m tools.demo_page runs/demo_seg runs/demo_det runs/demo_inst runs/demo_pan runs/demo_depth

demo-%: rooms
	$(PY) train.py --cfg configs/demo/$*.yaml run_name=demo_$*
	$(PY) eval.py --checkpoint runs/demo_$* --json runs/demo_$*/eval.json
	$(PY) -m tools.demo_summary runs/demo_$*

showcase: rooms ## after demo-all: train further on larger scenes and draw the README's pictures (resumable)
	$(PY) -m tools.showcase

minipaper: scenes ## the paper's comparisons on the scenes (hours of CPU; continues where it stopped) -> RESULTS.md
	$(PY) -m tools.minipaper

test: dev ## run the test suite, one process per core
	OMP_NUM_THREADS=1 $(PY) -m pytest -n auto --maxprocesses 8 --dist worksteal

test-slow: dev ## run the tests marked slow
	$(PY) -m pytest -m "slow and not gpu"

faults: dev ## run the whole fault suite, within an hour on two cores -> RELIABILITY.md
	OMP_NUM_THREADS=1 $(PY) -m tests.faults

check: dev ## check format, lint and types
	$(PY) -m ruff format --check .
	$(PY) -m ruff check .
	$(PY) -m mypy

format: dev ## format and sort imports
	$(PY) -m ruff check --fix --select I .
	$(PY) -m ruff format .

gpu: dev scenes ## on a machine with CUDA: GPU tests, short bf16 trainings, timings -> benchmarks/results/
	$(PY) -m benchmarks.gpu

bench: dev scenes ## compare speed with other libraries, side by side -> docs/performance.md
	$(PY) -m benchmarks.performance

clean: ## remove caches (not .venv, data or runs)
	rm -rf .pytest_cache .mypy_cache .ruff_cache build *.egg-info
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +
