.PHONY: run test lint vectors bench

run: ## one node on this machine, with its page
	scripts/run

test: ## every linter and every test
	scripts/test

lint: ## the linters alone
	scripts/install test,lint
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/pyright
	.venv/bin/lint-imports

vectors: ## the frozen vectors of every format; refuses to change one
	scripts/install test
	PYTHONPATH=tests .venv/bin/python -m vectors.make

bench: ## every benchmark, alone on the machine; ONLY=tile,open chooses, SMOKE=1 is small and writes nothing
	scripts/install test
	.venv/bin/python tests/benchmarks/harness.py
