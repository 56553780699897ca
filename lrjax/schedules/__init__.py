"""Schedules: pure functions from a step to a rate, one family a file."""
