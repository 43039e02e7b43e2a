# What a newcomer types. `make` alone lists the targets.

VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
NATIVE := src/quire/kernels/cpu/libquire_*.so
NATIVE_LOG := build/native.log

# How tests run beside each other: whole files, since what the tests of one share is made once.
WORKERS ?= -n 2 --dist loadfile

# A package index that has the torch build you want, where pip's own would bring another.
TORCH_INDEX ?=

# Who runs on a machine with a CUDA device, and what it may lack: packages without needs of their own.
GPU_PYTHON ?= python3
GPU_PYTHON_VERSION ?= 3.12
GPU_NEEDS := 'msgspec>=0.20,<0.23'
GPU_SITE := build/gpu-site
WHEELS := .whl

.DEFAULT_GOAL := help
.PHONY: help setup native serve test test-slow test-gpu lint format docs bench-cpu gpu-wheels gpu-check gpu-bench clean

help:
	@echo 'make setup              create $(VENV) and install Quire into it'
	@echo 'make native             build the kernels of csrc/ again, where they changed'
	@echo 'make serve ARGS="..."   serve a model; ARGS are flags of quire serve'
	@echo 'make test               style, types, import floors, and the tests'
	@echo 'make test-slow          the tests that take minutes'
	@echo 'make test-gpu           the tests that need a CUDA device'
	@echo 'make lint               style, types and import floors only'
	@echo 'make format             put the code into its style'
	@echo 'make bench-cpu ARGS="..."  measure beside other engines (installs them; --help for more)'
	@echo 'make gpu-check ARGS="..."  check on a CUDA device that it computes what it should; takes up to 8 minutes'
	@echo 'make gpu-bench ARGS="..."  measure on a CUDA device, beside its limits and transformers; up to 8 minutes'
	@echo 'make gpu-wheels         fetch what those two need where there is no network, into $(WHEELS)'
	@echo 'make docs               write the pages that are made from the code'
	@echo 'make clean              remove everything that these made'

setup: native
	@:

# Torch comes first and alone: which build it is decides what else gets downloaded. The kernels come from make native.
$(READY): pyproject.toml
	@for python in $(PYTHON) python3.11 python3.12 python3.13 python3; do \
	    "$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && break; python=; \
	done; \
	if [ -z "$$python" ]; then echo 'Quire needs Python 3.11 or later; set PYTHON=/path/to/it.' >&2; exit 1; fi; \
	if [ ! -x $(BIN)/python ]; then "$$python" -m venv $(VENV); fi
	@echo 'Installing into $(VENV), once; this takes some minutes.'
	@$(PIP) --upgrade 'pip>=24'
	@$(PIP) 'torch>=2.11,<2.14' $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX))
	@$(PIP) -e '.[test]' -C wheel.cmake=false
	@touch $@

# In place, beside the Python files that open them; CMake knows what changed. A machine that cannot build them says so,
# and has no old ones left that may not fit any more. Sources that do not compile are an error. CMake's make is its own.
native: $(READY)
	@unset MAKEFLAGS MAKELEVEL; mkdir -p build; \
	cannot() { rm -f $(NATIVE); echo "No native kernels: $$1. Quire runs on torch, which is slower."; exit 0; }; \
	fail() { cat $(NATIVE_LOG) >&2; exit 1; }; \
	for name in $$CXX c++ g++ clang++; do command -v "$$name" >/dev/null && break; done || cannot 'there is no C++ compiler'; \
	cmake=$$(command -v $(BIN)/cmake || command -v cmake) || \
	    { $(PIP) 'cmake>=3.16' && cmake=$(BIN)/cmake; } || cannot 'no CMake is here or in the package index'; \
	$$cmake -S csrc -B build/native >$(NATIVE_LOG) 2>&1 || \
	    { reason=$$(sed -n 's/^-- refused: //p' $(NATIVE_LOG)); [ "$$reason" ] || fail; cannot "$$reason"; }; \
	last=build/native/install_manifest.txt; [ -e $$last ] && [ -z "$$(find csrc -newer $$last)" ] || \
	    echo 'Building the native kernels; this takes a minute.'; \
	{ $$cmake --build build/native --parallel 2 && $$cmake --install build/native --prefix src; } >>$(NATIVE_LOG) 2>&1 || fail

serve: native
	@exec $(BIN)/quire serve $(ARGS)

test: lint native
	@$(BIN)/python -m pytest -m 'not slow and not gpu' $(WORKERS) $(ARGS)

test-slow: native
	@$(BIN)/python -m pytest -m slow $(ARGS)

# Without the tests that have Triton interpret its kernels: in their process it compiles none.
test-gpu: native
	@$(BIN)/python -m pytest -m gpu --ignore=tests/triton $(ARGS)

lint: $(READY)
	@$(BIN)/ruff check --quiet .
	@$(BIN)/ruff format --quiet --check .
	@$(BIN)/mypy --no-error-summary
	@found=$$($(BIN)/lint-imports --no-cache --no-logo 2>&1) || { echo "$$found"; exit 1; }

format: $(READY)
	@$(BIN)/ruff check --quiet --fix . || true
	@$(BIN)/ruff format --quiet .

docs: $(READY)
	@$(BIN)/python -m quire.cli.flags_doc docs/flags.md

bench-cpu: native
	@exec $(BIN)/python -m benchmarks.peers $(ARGS)

# For a machine with a device and without a network: any Python with torch, Triton, transformers and what Quire needs
# beside; what it lacks is carried along in $(WHEELS), and unpacked. Nothing is installed, no environment is made.
gpu-wheels:
	@python3 -m pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: --dest $(WHEELS) \
	    --implementation cp --python-version $(GPU_PYTHON_VERSION) \
	    --platform manylinux_2_28_x86_64 --platform manylinux_2_17_x86_64 --platform manylinux2014_x86_64 $(GPU_NEEDS)
	@du -sh $(WHEELS)

$(GPU_SITE)/.ready: $(wildcard $(WHEELS)/*.whl)
	@rm -rf $(GPU_SITE); mkdir -p $(GPU_SITE)
	@for wheel in $^; do $(GPU_PYTHON) -m zipfile -e $$wheel $(GPU_SITE) || exit 1; done
	@touch $@

gpu-check gpu-bench: gpu-%: $(GPU_SITE)/.ready
	@PYTHONPATH=src:.:$(GPU_SITE) $(GPU_PYTHON) -m benchmarks.gpu.$* $(ARGS)

clean:
	@rm -rf $(VENV) $(WHEELS) $(NATIVE) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
