# Everything below installs what it needs into .venv first, and nothing anywhere else.
# Needed beforehand: make, and Python 3.11 or newer with its venv module.

PYTHON ?= $(firstword $(foreach name,python3 python3.13 python3.12 python3.11,\
	$(shell $(name) -c 'import ensurepip, sys; sys.version_info < (3, 11) and sys.exit(1)' \
		2>/dev/null && echo $(name))))
INSTALLED := .venv/.installed
NODE_PACKAGES := tests/interop/node/node_modules/.installed

# Explicit, so that an activated environment or a Pipfile further up is not taken instead.
pipenv := VIRTUAL_ENV="$(CURDIR)/.venv" PIPENV_PIPFILE="$(CURDIR)/Pipfile" PIPENV_VERBOSITY=-1 \
	.venv/bin/pipenv

.DEFAULT_GOAL := help
.PHONY: help serve test faults screenshots check format lock bench clean

help: ## Say what there is
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/make \1	\2/p' Makefile

serve: $(INSTALLED) ## Start MongoDB, two demo clients and the example on port 8000 (PORT=...)
	@.venv/bin/python -m example

test: $(INSTALLED) $(NODE_PACKAGES) ## Run the whole test suite against a real MongoDB
	.venv/bin/python -m pytest

faults: $(INSTALLED) ## Harm the service and its database in every way, for hours (SEEDS, OPERATIONS, ONLY)
	@.venv/bin/python -m tests.faults $(ONLY) --seeds $(or $(SEEDS),3) --rounds $(or $(ROUNDS),5) \
		--operations $(or $(OPERATIONS),100000)

screenshots: $(INSTALLED) ## Take the pictures of docs/images anew, by Chromium
	SCREENSHOTS=1 .venv/bin/python -m pytest -q --numprocesses=0 tests/browser/test_docs.py

check: $(INSTALLED) ## Check format, lint and types
	.venv/bin/ruff format --check
	.venv/bin/ruff check
	.venv/bin/mypy

format: $(INSTALLED) ## Format, and mend what ruff can mend
	.venv/bin/ruff format
	.venv/bin/ruff check --fix

# The lock names no index, so that everyone's pip asks the one it is configured for.
lock: $(INSTALLED) ## Take newer dependencies into Pipfile.lock
	$(pipenv) lock
	.venv/bin/python .ci/forget_index.py

# The contenders live in .bench/, so that nobody who only uses the project installs them.
bench: ## Measure against other servers (ROUNDS, SECONDS, CONNECTIONS, CLIENTS, ONLY, QUICK=1)
	@"$(PYTHON)" bench/install.py
	@.bench/python/bin/python -m bench

clean: ## Remove all that make has made, the database of `make serve` included
	rm -rf .venv .data .bench dist tests/interop/node/node_modules .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(INSTALLED): Pipfile.lock
	@test -n "$(PYTHON)" || { echo "error: Python 3.11 or newer with venv is needed:" \
		"install it (Debian: apt-get install python3-venv) or name it with PYTHON=..." >&2; exit 1; }
	@"$(PYTHON)" -c 'import ensurepip, sys; sys.version_info < (3, 11) and sys.exit(1)' 2>/dev/null \
		|| { echo "error: $(PYTHON) is no Python 3.11 or newer with venv" >&2; exit 1; }
	@echo "Installing the locked dependencies into .venv"
	@.venv/bin/python -c '' 2>/dev/null || "$(PYTHON)" -m venv --clear .venv
	@.venv/bin/python -m pip install --quiet --disable-pip-version-check 'pipenv~=2026.10'
	@$(pipenv) sync --dev
	@touch $@

# OAuth clients for Node talk to ours in tests/interop. A machine without them tests all the rest.
$(NODE_PACKAGES): tests/interop/node/package-lock.json
	@if ! node -e 'process.exit(parseInt(process.versions.node) < 20 ? 1 : 0)' 2>/dev/null \
			|| ! command -v npm >/dev/null; then \
		echo "The tests with OAuth clients for Node will be skipped:" \
			"they need node 20 or newer and npm on the PATH"; \
	elif (cd $(dir $<) && npm ci --loglevel=error >/dev/null); then \
		touch $@; \
	else \
		echo "The tests with OAuth clients for Node will be skipped:" \
			"npm cannot install their packages, see above"; \
	fi
