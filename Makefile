# `make fit` and `make test` work in a fresh clone: they make .venv first. PYTHON is any Python from 3.11 on.
PYTHON ?= python3.11
CONFIG ?= configs/robust_mutual.json
ARGUMENTS ?=
RUN = .venv/bin/python
PIP_INSTALL = pip install --quiet --disable-pip-version-check

# What the slow tests meet beside Python packages: a real server, other clients, a browser. What cannot be installed does
# not stop make: the tests that need it are skipped and say so.
SERVING_TOOLS = .venv/with-serving-tests .venv-triton serving/node/node_modules
SERVING_TESTS = $(wildcard tests/test_serv*.py tests/test_export*.py tests/test_inference*.py) tests/test_publish.py \
    tests/test_client.py tests/test_triton.py tests/test_node.py
DEBIAN_TOOLS = chromium chromedriver:chromium-driver npm

.PHONY: fit test test-slow soak lint clean serving-tools debian-tools

.venv: requirements.txt
	$(PYTHON) -m venv .venv
	.venv/bin/$(PIP_INSTALL) -r requirements.txt || (rm -rf .venv; exit 1)
	touch .venv

.venv/with-tests: requirements.txt requirements-test.txt | .venv
	.venv/bin/$(PIP_INSTALL) -r requirements-test.txt
	touch .venv/with-tests

.venv/with-serving-tests: .venv/with-tests requirements-serving-test.txt
	@if .venv/bin/$(PIP_INSTALL) -r requirements-serving-test.txt; then touch $@; \
	else echo "not installed: requirements-serving-test.txt; tests that need it are skipped"; fi

# Triton's Python backend needs NumPy below 2, so it has an environment of its own.
.venv-triton: serving/triton/requirements.txt
	@if $(PYTHON) -m venv $@ && $@/bin/$(PIP_INSTALL) -r $<; then touch $@; \
	else rm -rf $@; echo "not installed: $<; the tests with Triton are skipped"; fi

serving/node/node_modules: serving/node/package-lock.json | debian-tools
	@if cd serving/node && npm ci --ignore-scripts --no-audit --no-fund --loglevel=error; then touch node_modules; \
	else rm -rf node_modules; echo "not installed: $<; the test with Node.js is skipped"; fi

# COMMAND or COMMAND:PACKAGE; only as root and only what is missing.
debian-tools:
	@missing=""; for tool in $(DEBIAN_TOOLS); do \
	    command -v $${tool%%:*} > /dev/null || missing="$$missing $${tool#*:}"; done; \
	test -z "$$missing" || { test "$$(id -u)" = 0 && command -v apt-get > /dev/null && apt-get -qq update > /dev/null && \
	    DEBIAN_FRONTEND=noninteractive apt-get -qq -y --no-install-recommends install $$missing > /dev/null; } || \
	echo "not installed:$$missing (with apt-get, as root); tests that need it are skipped"

serving-tools: debian-tools $(SERVING_TOOLS)

fit: .venv
	$(RUN) -m tfssl.fit $(CONFIG) $(ARGUMENTS)

test: .venv/with-tests
	$(RUN) -m pytest -m "not slow and not soak" -n 2 --dist worksteal

# In turn, in fresh processes: a process keeps the memory of every graph it has traced, the first two come to 17 GB.
test-slow: .venv/with-tests serving-tools
	$(RUN) -m pytest -m slow -n 2 --dist worksteal $(addprefix --ignore=,tests/test_dry_run.py $(SERVING_TESTS))
	$(RUN) -m pytest -m slow -n 2 tests/test_dry_run.py
	$(RUN) -m pytest -m slow -n 2 --dist worksteal $(SERVING_TESTS)

soak: .venv/with-tests serving-tools
	$(RUN) -m pytest -m soak

lint: .venv/with-tests
	.venv/bin/ruff check .

clean:
	rm -rf .venv .venv-triton serving/node/node_modules runs
