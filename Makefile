# Two commands do all the set-up on a fresh machine: `make demo` and `make test`.
# TORCH=cpu takes PyTorch's build without CUDA when .venv is made, PIP="uv pip" installs by uv: docs/install.md.
PYTHON ?= python3
PY := .venv/bin/python
PIP = $(PY) -m pip
TORCH =
TORCH_INDEX = https://download.pytorch.org/whl/$(TORCH)
export PIP_DISABLE_PIP_VERSION_CHECK = 1

.PHONY: help install dev scenes rooms demo demo-all showcase minipaper board test test-slow notebook docs faults check format bench gpu clean
help: ## show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'

.venv/installed: requirements.txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info)' || { echo "error: $(PYTHON): Python 3.11 or newer is needed; run make with PYTHON=python3.12 or the like" >&2; exit 2; }
	@case "$(TORCH)" in "" | cpu | xpu | cu[0-9]* | rocm[0-9]*) ;; *) echo "error: TORCH: $(TORCH) is no build of PyTorch; give cpu, xpu, or a name such as cu126 or rocm6.4" >&2; exit 2 ;; esac
	@echo "installing PyTorch and the rest into .venv: some minutes, about $(if $(filter cpu,$(TORCH)),1.5,6) GB"
	test -x $(PY) || $(PYTHON) -m venv .venv
	$(if $(TORCH),$(PIP) install --quiet torch torchvision --index-url $(TORCH_INDEX))
	$(PIP) install --quiet -r requirements.txt
	@touch $@

.venv/installed-dev: .venv/installed requirements-dev.txt requirements-export.txt requirements-demo.txt
	$(PIP) install --quiet -r requirements-dev.txt
	@touch $@

.venv/installed-docs: .venv/installed requirements-docs.txt
	$(PIP) install --quiet -r requirements-docs.txt
	@touch $@

.venv/installed-demo: .venv/installed requirements-demo.txt
	$(PIP) install --quiet -r requirements-demo.txt
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

board: scenes ## all upsamplers in five models (many hours of CPU; continues where it stopped) -> BOARD.md
	$(PY) -m tools.board

test: dev ## run the test suite, one process per core
	OMP_NUM_THREADS=1 $(PY) -m pytest -n auto --maxprocesses 8 --dist worksteal

test-slow: dev ## run the tests marked slow
	$(PY) -m pytest -m "slow and not gpu"

notebook: dev ## run the notebook docs/first_steps.ipynb from top to bottom
	$(PY) -m pytest -m slow tests/test_first_steps.py

docs: .venv/installed-docs ## build the site -> build/site/index.html, which needs no server
	NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs build --strict

faults: dev ## run the whole fault suite, within an hour on two cores -> RELIABILITY.md
	OMP_NUM_THREADS=1 $(PY) -m tests.faults

check: dev ## check format, lint, types and the Dockerfile
	$(PY) -m ruff format --check .
	$(PY) -m ruff check .
	$(PY) -m mypy
	.venv/bin/hadolint Dockerfile

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
