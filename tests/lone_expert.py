"""An expert of the built-in model that the answer to one question needs, while that to another does without it."""

ALONE = (0, 6)  # layer and expert
NEEDS_IT = "What is 345 plus 678?"
DOES_WITHOUT = "Thanks"
