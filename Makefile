# `make fit` and `make test` work in a fresh clone: they make .venv first. PYTHON is any Python from 3.11 on.
PYTHON ?= python3.11
CONFIG ?= configs/robust_mutual.json
ARGUMENTS ?=
RUN = .venv/bin/python

.PHONY: fit test test-slow soak lint clean

.venv: requirements.txt
	$(PYTHON) -m venv .venv
	.venv/bin/pip install --quiet --disable-pip-version-check -r requirements.txt || (rm -rf .venv; exit 1)
	touch .venv

.venv/with-tests: .venv requirements-test.txt
	.venv/bin/pip install --quiet --disable-pip-version-check -r requirements-test.txt
	touch .venv/with-tests

fit: .venv
	$(RUN) -m tfssl.fit $(CONFIG) $(ARGUMENTS)

test: .venv/with-tests
	$(RUN) -m pytest -m "not slow and not soak" -n 2 --dist worksteal

test-slow: .venv/with-tests
	$(RUN) -m pytest -m slow -n 2 --dist worksteal --ignore tests/test_dry_run.py
	$(RUN) -m pytest -m slow -n 2 tests/test_dry_run.py  # after the others, which hold 10 GB in the end: it takes 7

soak: .venv/with-tests
	$(RUN) -m pytest -m soak

lint: .venv/with-tests
	.venv/bin/ruff check .

clean:
	rm -rf .venv runs
