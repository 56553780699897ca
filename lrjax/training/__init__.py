"""Tasks, and the engine that trains them."""
