"""Finding the rate: many runs as one compiled program."""
