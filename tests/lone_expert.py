"""An expert of the built-in model that the answer to one question needs, while that to another does without it."""

ALONE = (3, 4)  # layer and expert
NEEDS_IT = "What is 12 plus 30?"
DOES_WITHOUT = "Tell me about you"
