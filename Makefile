# SPDX-License-Identifier: Apache-2.0
# `make help` lists the targets. Needs Python >= 3.10 with venv and pip, a C++17 compiler and make; the rest comes from pip.

PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11 python3.10; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null && echo $$p && break; done)
JOBS ?= $(shell nproc 2>/dev/null || echo 2)
# The suite runs CUDA kernels on the CPU through the emulator, and compiling them for eight GPU targets takes minutes: the
# library is built by `make cuda-check`, by plain `pip install .`, or here on request: make test FASTDET_CUDA=AUTO.
FASTDET_CUDA ?= OFF
export FASTDET_CUDA

CONSTRAINTS := .ci/constraints.txt
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
# What pip would fetch into a build environment of its own; kept in .venv, so that a rebuild compiles what has changed only.
BUILD_TOOLS := 'scikit-build-core>=1.1' 'pybind11>=3.0' 'cmake>=3.26' ninja
CHECK_TOOLS := ruff mypy build clang-format codespell
CPP := $(shell git ls-files 'csrc/*.h' 'csrc/*.cpp' 'csrc/*.cu' 'csrc/*.cuh' 'tests/native/*.h' 'tests/native/*.cpp' \
	'tests/native/*.cu' 2>/dev/null)

.PHONY: help demo test install lint bench bench-index sanitize fuzz mutate cuda-check package-check reproduce-weights wheel sdist format clean
.DEFAULT_GOAL := help

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 20

demo: ## build and install into a fresh environment, detect on the embedded pictures, write demo/
	@test -n "$(PYTHON)" || { echo "fastdet needs Python 3.10 or newer; set PYTHON=/path/to/python3" >&2; exit 1; }
	$(PYTHON) -m venv --clear .venv-demo
	.venv-demo/bin/python -m pip --disable-pip-version-check install -q -c $(CONSTRAINTS) '.[torch,images]'
	.venv-demo/bin/fastdet predict --save demo

test: install lint ## the whole suite, with warnings as errors
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --benchmark-disable tests benchmarks $(ARGS)

.venv/tools: $(CONSTRAINTS) Makefile
	@test -n "$(PYTHON)" || { echo "fastdet needs Python 3.10 or newer; set PYTHON=/path/to/python3" >&2; exit 1; }
	$(PYTHON) -m venv .venv
	$(PIP) install -q -c $(CONSTRAINTS) $(BUILD_TOOLS) $(CHECK_TOOLS)
	@touch $@

install: .venv/tools
	PATH="$(CURDIR)/$(BIN):$$PATH" $(PIP) install -q -c $(CONSTRAINTS) --no-build-isolation \
		--config-settings cmake.define.FASTDET_WERROR=ON '.[test,bench]'

lint: .venv/tools ## style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(if $(CPP),$(BIN)/clang-format --dry-run -Werror $(CPP))
	$(if $(CPP),$(BIN)/codespell $$(git ls-files))

bench: install ## time against peers, interleaved; writes benchmarks/results/ and the README's table
	FASTDET_BENCH_SAVE=1 $(BIN)/python -m pytest benchmarks $(ARGS)
	$(BIN)/python benchmarks/table.py
	$(BIN)/python benchmarks/detector_table.py

bench-index: install ## open 2 million made-up pictures, with and without a kept index; needs 3 GB of disk
	$(BIN)/python benchmarks/data/index_of_millions.py $(ARGS)

sanitize: install ## every kernel under ASan + UBSan and under TSan, in the emulator
	$(BIN)/python tests/native/run_sanitized.py $(ARGS)

# Atheris chooses inputs by coverage; where pip has none for this Python, the fuzzers mutate by themselves.
FUZZ ?= zip zip-crc opcodes safetensors labels voc yaml coco labels-native coco-native header index
SECONDS ?= 60
fuzz: install ## readers of weight files and labels under random input: make fuzz FUZZ=opcodes SECONDS=3600
	-$(PIP) install -q --only-binary :all: atheris
	for target in $(FUZZ); do $(BIN)/python tests/fuzz/run.py $$target --seconds $(SECONDS) || exit 1; done

OP ?= nms
COUNT ?= 20
SEED ?= 0
mutate: install ## change native code in one place at a time, list what no test notices: make mutate OP=decode COUNT=50 SEED=1
	$(BIN)/python tests/mutation/run.py --op $(OP) --count $(COUNT) --seed $(SEED) $(ARGS)

# Header-only libraries of the fused convolution. Their wheels' own requirements are for running, not for compiling. cuDNN's
# header comes in a wheel of 500 MB, and what needs it is code of the host: make cuda-check CUDNN=1 fetches it.
HEADERS := nvidia-cutlass==4.2.0.0 $(if $(CUDNN),nvidia-cudnn-frontend==1.14.1 nvidia-cudnn-cu13==9.28.*)
.venv/headers$(CUDNN): .venv/tools
	$(PIP) install -q --no-deps $(HEADERS) && touch $@ || echo "cuda-check: $(HEADERS) could not be installed"

cuda-check: install .venv/headers$(CUDNN) ## compile every kernel for every GPU target: no warnings, no unexplained spills
	$(BIN)/python tests/native/cuda_check.py $(ARGS)

package-check: .venv/tools ## sdist, wheel from the sdist in a clean environment, its contents and size
	$(BIN)/python tests/package_check.py

reproduce-weights: install ## train the embedded weights again, 90 minutes: make reproduce-weights DATA=folder/of/bccd
	@test -f "$(DATA)/annotations/instances_train.json" || { echo "DATA must be BCCD in COCO format" >&2; exit 1; }
	MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=100000000000 MALLOC_TOP_PAD_=500000000 $(BIN)/fastdet train \
		--config python/fastdet/weights/damo-yolo-ns-bccd.json --data "$(DATA)"

wheel: .venv/tools ## dist/*.whl for this machine; CUDA with make wheel FASTDET_CUDA=AUTO
	$(BIN)/python -m build --wheel

sdist: .venv/tools ## dist/*.tar.gz
	$(BIN)/python -m build --sdist

format: .venv/tools ## rewrite Python and C++ in the house style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(CPP)

clean: ## remove what these targets made
	rm -rf build dist demo .venv .venv-demo .pytest_cache .mypy_cache .ruff_cache .hypothesis .benchmarks
