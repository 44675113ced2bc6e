# One word for everything this project does; `make help` lists them.
#
# Every target does its own set-up from a bare Python 3.11 or 3.12 with pip: a virtual environment in .venv, made
# once and kept until pyproject.toml, the Python or the folder changes. An interrupted installation is redone.

VENV := .venv
BIN := $(VENV)/bin
DEMO ?= demo

# The first Python that will do. sys._base_executable is the interpreter behind an activated environment, which may
# be the very .venv that is about to be made anew.
PYTHON ?= $(shell for python in python3.11 python3.12 python3 python; do \
	"$$python" -c 'import sys; assert (3, 11) <= sys.version_info[:2] <= (3, 12); print(sys._base_executable)' \
	2>/dev/null && break; done)
STATE := $(shell { cat pyproject.toml; "$(PYTHON)" -V; pwd; } 2>/dev/null | cksum | tr -s ' ' '-')
INSTALLED := $(VENV)/.installed-$(STATE)
DEVELOP := $(VENV)/.develop-$(STATE)

.PHONY: help install develop demo test long lint types docs format check clean tools
.DEFAULT_GOAL := help

help: ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## /{printf "make %-9s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(INSTALLED) ## the commands openus and usfmae in .venv/bin

develop: $(DEVELOP) ## all that the tests need, too; LOCKED=1 installs by .ci/lock.txt, each file checked by its hash

demo: $(INSTALLED) ## from ultrasound files to a trained classifier, without any download of data (into ./demo)
	@PATH="$(CURDIR)/$(BIN):$$PATH" sh docs/demo.sh "$(DEMO)"

test: $(DEVELOP) tools ## the tests; ARGS="-k dicom -x" passes on to pytest
	$(BIN)/python -m pytest -n 2 --dist loadfile $(ARGS)

long: $(DEVELOP) tools ## the tests, with those that take minutes
	$(BIN)/python -m pytest --long $(ARGS)

lint: $(DEVELOP) ## ruff: style and likely mistakes
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(DEVELOP) ## mypy --strict
	$(BIN)/mypy

docs: $(DEVELOP) ## the documentation as a site, in ./site
	$(BIN)/mkdocs build --strict --quiet

format: $(DEVELOP) ## let ruff rewrite what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

check: test lint types ## all that CI runs

clean: ## remove the environment, caches and the demo
	rm -rf $(VENV) demo dist site .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The stamp is written last, so that it stands for a whole installation.
$(INSTALLED):
	@$(venv)
	$(BIN)/python -m pip install --editable .
	@rm -f $(VENV)/.installed-* $(VENV)/.develop-* && touch $@

$(DEVELOP):
	@$(venv)
	$(if $(LOCKED),$(BIN)/python -m pip install --require-hashes -r .ci/lock.txt && \
		$(BIN)/python -m pip install --no-build-isolation --no-deps --editable .,\
		$(pinned) && $(BIN)/python -m pip install --constraint $(VENV)/pinned.txt --editable '.[dev]')
	@rm -f $(VENV)/.installed-* $(VENV)/.develop-* && touch $(INSTALLED) $@

# The versions of the lock without its hashes: with so many packages pip would search for hours for versions that go
# together. PyTorch stays free, since which build fits is the machine's affair.
pinned = grep '==' .ci/lock.txt | sed 's/ *\\$$//' | grep -Ev '^(torch|torchvision|triton|nvidia-[a-z0-9-]*|cuda-[a-z-]*)==' \
	> $(VENV)/pinned.txt

define venv
if [ -z "$(PYTHON)" ]; then \
	echo "openus needs Python 3.11 or 3.12 and found neither; install one, or name it: make PYTHON=/path/to/python3.11"; \
	exit 1; \
fi; \
version=$$("$(PYTHON)" -c 'import sys; print("%d.%d" % sys.version_info[:2])') && \
if ! $(BIN)/python -c "import pip, sys; sys.exit('%d.%d' % sys.version_info[:2] != '$$version')" 2>/dev/null; then \
	echo "making $(VENV) with Python $$version; the first installation takes some minutes"; \
	rm -rf $(VENV) && if "$(PYTHON)" -c 'import ensurepip' 2>/dev/null; then "$(PYTHON)" -m venv $(VENV); \
	else "$(PYTHON)" -m venv --without-pip $(VENV) && "$(PYTHON)" -m pip --python $(BIN)/python install pip; fi; \
fi
endef

# A few tests use programs that Python packages do not bring; where these cannot be had, the tests are skipped and
# say why. The names of the Debian packages are those of the programs, but for the browser's driver (chromedriver).
TOOLS := zip openssl unar
tools:
	@missing=""; for tool in $(TOOLS); do command -v $$tool >/dev/null || missing="$$missing $$tool"; done; \
	command -v chromedriver >/dev/null || missing="$$missing chromium chromium-driver"; \
	if [ -n "$$missing" ] && [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		{ timeout 120 apt-get update -qq && timeout 600 apt-get install -y -qq --no-install-recommends $$missing; } \
		>/dev/null 2>&1 || echo "could not install$$missing: the tests that need them will be skipped"; \
	fi
