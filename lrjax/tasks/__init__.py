"""Built-in tasks on real data, and task files."""
