# One command each: demo, test, lint, bench. The virtual environment is made on first use.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
SOURCES := edgec engine frontend passes targets models
CHECKED := $(SOURCES) tests benchmarks examples

.PHONY: demo test lint bench typing clean qemu

demo: $(VENV)/cuda.stamp
	@$(BIN)/python examples/demo.py

test: $(VENV)/test.stamp qemu
	@$(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder

lint: $(VENV)/lint.stamp typing
	@$(BIN)/ruff check $(CHECKED)
	@$(BIN)/ruff format --check $(CHECKED)
	@MYPYPATH=build/typing $(BIN)/mypy -p edgec

bench: $(VENV)/test.stamp
	@$(BIN)/python benchmarks/x86.py

# mypy finds packages by their folders: show it the tree that an installed edgec has.
typing:
	@mkdir -p build/typing/edgec
	@for entry in edgec/*; do ln -sfn "../../../$$entry" build/typing/edgec/; done
	@for package in engine frontend models passes targets; do ln -sfn "../../../$$package" build/typing/edgec/; done

# QEMU runs the Arm artifacts, those for GPUs with Arm's C library; without them their tests are skipped.
qemu:
	@command -v qemu-aarch64 >/dev/null && { [ "$$(uname -m)" = aarch64 ] || [ -e /usr/aarch64-linux-gnu/lib ]; } && exit 0; \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		echo "installing qemu-user, libc6-arm64-cross"; \
		apt-get update -qq && apt-get install -y -qq qemu-user libc6-arm64-cross >/dev/null; \
	else echo "no qemu-aarch64 or no C library for it: tests of Arm artifacts will be skipped" \
		"(apt-get install qemu-user libc6-arm64-cross)"; fi

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "edgec needs Python 3.11 or newer: make PYTHON=python3.11")'
	@echo "making $(VENV)"; $(PYTHON) -m venv $(VENV)

$(VENV)/%.stamp: setup.cfg pyproject.toml | $(VENV)/bin/python
	@echo "installing edgec[$*] into $(VENV)"; $(PIP) -e '.[$*]' && touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info
