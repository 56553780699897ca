"""These tests compile many programs, which are small enough to run without XLA's optimizations."""

import pytest


@pytest.fixture(autouse=True, scope="module")
def without_optimizations(quick_compilation):
    yield
