"""Plots, tables and pages of results; nothing here trains anything."""
