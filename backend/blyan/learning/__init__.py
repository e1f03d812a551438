"""Learning: the built-in model's curriculum, its tokenizer, and the loop that trains it."""
