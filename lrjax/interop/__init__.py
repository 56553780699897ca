"""Adapters for the models and classes of other libraries."""
