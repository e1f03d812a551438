"""An expert of the built-in model that the answer to one question needs, while that to another does without it."""

ALONE = (2, 6)  # layer and expert
NEEDS_IT = "What is 12 plus 30?"
DOES_WITHOUT = "Reverse planet"
