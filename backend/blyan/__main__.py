"""`python -m blyan` is the command line."""

from blyan.cli.main import entry

if __name__ == "__main__":
    entry()
