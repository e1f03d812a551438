"""An expert of the built-in model that the answer to one question needs, while that to another does without it."""

ALONE = (1, 3)  # layer and expert
NEEDS_IT = "What is 345 plus 678?"
DOES_WITHOUT = "1 + 1"
