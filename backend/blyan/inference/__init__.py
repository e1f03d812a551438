"""From a request to tokens: one generation, and who computes when."""
