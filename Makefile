# `make demo` and `make test` do everything on a fresh machine. Variables given to make reach the commands as environment:
#   make demo CHECKPOINT=model.safetensors IMAGES=folder PROMPT="a photo of sks dog" STEPS=1000
#   make test ARGS="tests/ops -x"
PYTHON ?= python3
HOST = $(PYTHON) tools/host.py
CHECK ?= $(HOST) run
COUNT = KRONA_ROOT=$(CURDIR) $(HOST) run -m coverage

# One thread for each process, because there are two; and compiled files are kept, also where the shell says otherwise: pytest alone takes 7 s
# of each process to read the tests without them.
TESTS = OMP_NUM_THREADS=1 PYTHONDONTWRITEBYTECODE=
QUICK = -m "not host and not browser and not slow and not long" tests/ops tests/train tests/test_house.py tests/test_raises.py tests/test_markers.py

.DEFAULT_GOAL := help
.PHONY: help setup browser demo test coverage test-slow flakes test-web bench bench-gpu bench-quality world check types lint serve clean

help:   ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /make \1|/' | awk -F'|' '{printf "%-14s %s\n", $$1, $$2}'

setup:  ## find or install ComfyUI, and what the pack and its tests need (the others call it)
	@$(HOST) setup

demo: setup  ## train, save, load and apply an adapter in a real ComfyUI (CHECKPOINT= IMAGES= PROMPT= STEPS=)
	@$(HOST) run tools/demo.py

browser:  ## find or install Chromium for the browser tests
	@$(PYTHON) tools/comfyui/browser.py

test: setup browser  ## all tests, those in the real ComfyUI and in the browser included, in two processes (ARGS= for pytest)
	$(TESTS) $(HOST) run -m pytest -n 2 --durations=25 $(ARGS)

check:  ## lint, types, and the tests that need neither ComfyUI nor Chromium (CHECK=.venv/bin/python: without ComfyUI, see CONTRIBUTING.md)
	$(CHECK) -m ruff check .
	@$(MAKE) --no-print-directory types
	$(TESTS) $(CHECK) -m pytest -n 2 -q $(QUICK) $(ARGS)

types:  ## mypy, and TypeScript's look at the browser's modules
	$(CHECK) -m mypy
	npx -y -p typescript@5.9 tsc -p jsconfig.json

coverage: setup browser  ## all tests once more, counting which lines and branches of the four packages they reach (ARGS= for pytest)
	rm -rf coverage-work; mkdir coverage-work
	$(TESTS) $(COUNT) run -m pytest -n 2 -q $(ARGS) || touch coverage-work/failed  # what they reach is told all the same
	$(COUNT) combine -q
	$(COUNT) report > coverage-work/report.txt; tail -1 coverage-work/report.txt
	$(COUNT) html -q
	@test ! -e coverage-work/failed || { echo "tests have failed: see above"; exit 1; }

test-slow: setup  ## the standing proof and other ComfyUIs, hours; goes on where it stopped (ARGS="--parts kills,disk --cases 50"), then docs/reliability.md
	OMP_NUM_THREADS=1 $(HOST) run -m proof $(ARGS)

flakes: setup browser  ## tests with servers, browsers and processes 20 times while every core is kept busy (ARGS="--rounds 5 --only tests/web --lanes 3")
	$(HOST) run proof/flakes.py $(ARGS)

test-web: setup browser  ## the browser tests alone
	$(HOST) run -m pytest tests/web $(ARGS)

bench: setup ## the benchmarks; each writes benchmarks/results/<name>-<machine>.json
	$(HOST) run benchmarks/merge.py
	$(HOST) run benchmarks/load.py
	$(HOST) run benchmarks/limits.py
	$(HOST) run benchmarks/blend.py
	$(HOST) run benchmarks/memory.py
	$(HOST) run benchmarks/layer.py
	$(HOST) run benchmarks/layer.py --flux --rounds 2
	$(HOST) run benchmarks/calls.py
	$(HOST) run benchmarks/ways.py --cpu
	$(HOST) run benchmarks/step.py
	$(HOST) run benchmarks/apply.py
	$(HOST) run benchmarks/scale.py
	$(HOST) run benchmarks/toys.py
	$(HOST) run benchmarks/pages/scaling.py
	$(HOST) run benchmarks/pages/readme_table.py

bench-gpu: setup ## what needs a GPU: the ways to compute an update, and a training step on SDXL's shapes, 1024 x 1024, bfloat16
	$(HOST) run benchmarks/ways.py
	$(HOST) run benchmarks/step.py --sdxl --size 128 --rounds 3

bench-quality: setup ## does it learn? trials in the small world, as far as they are missing (hours; ARGS="--minutes 60"), and docs/quality.md
	$(HOST) run benchmarks/quality.py $(ARGS)
	$(HOST) run benchmarks/pages/quality.py

world: setup ## train the small world's base models, its judges and its branches anew (KRONA_WORLD=folder for what it works with)
	$(HOST) run benchmarks/world/pretrain.py --folder $(or $(KRONA_WORLD),world-work)
	$(HOST) run benchmarks/world/pretrain.py --folder $(or $(KRONA_WORLD),world-work) --base "two levels"
	$(HOST) run benchmarks/world/train_judges.py --folder $(or $(KRONA_WORLD),world-work)
	$(HOST) run benchmarks/world/train_branches.py --folder $(or $(KRONA_WORLD),world-work)

lint: setup  ## ruff and types
	$(HOST) run -m ruff check .
	@$(MAKE) --no-print-directory types

serve: setup  ## ComfyUI with this pack in the foreground (ARGS="--port 8190 --base folder")
	@$(HOST) run tools/comfyui/server.py serve $(ARGS)

clean:  ## remove what the demo and the tests left here (not the installed ComfyUI)
	rm -rf demo-output coverage-work .pytest_cache .hypothesis .ruff_cache .mypy_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
