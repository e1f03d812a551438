"""The HTTP doors of a node: OpenAI dialect, health, expert grid and the page."""
