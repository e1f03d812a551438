"""One node: its configuration, its data directory, what it publishes and serves."""
