"""What crosses the node's doors, as typed values: parsed once, at the edge."""
