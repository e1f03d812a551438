"""What answers cost: prices of the meta chain, quotes, and what the books are asked for one answer. Pure."""
