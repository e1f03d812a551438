"""The command line: noun verb; stdout is data, stderr is progress."""
