"""What a task is, and the one engine that trains it."""
