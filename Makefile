.PHONY: run test lint vectors

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
