"""The built-in problems on real data."""
