"""Function tools: which the model may call, how it is told of them, and what its calls look like."""
