# make demo: build .venv, edit the shipped picture with the embedded prior.   make test: build .venv, run every check.
PYTHON ?= $(shell command -v python3.12 || command -v python3.11 || echo python3)
VENV := .venv
BIN := $(VENV)/bin
# small models on few cores: more threads only get into each other's way
export OMP_NUM_THREADS ?= 1

.PHONY: demo test clean

$(VENV)/.installed: pyproject.toml
	$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 11) <= v < (3, 13) else "Python 3.11 or 3.12 is needed, found %d.%d: set PYTHON=" % v)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade uv
	$(BIN)/uv pip install --quiet --python $(BIN)/python -e '.[dev]'
	touch $@

demo: $(VENV)/.installed
	OMP_NUM_THREADS=$$(nproc 2>/dev/null || echo 2) $(BIN)/cpds image --img_path cpds/assets/demo/cat.png \
	  --prompt "a cat face on a blue background" --trg_prompt "a dog face on a blue background"

test: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/pytest

clean:
	rm -rf $(VENV) build *.egg-info
