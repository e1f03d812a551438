"""The built-in model's exam and lessons: what is asked of it, what it is taught, and what it is never shown."""
