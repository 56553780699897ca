"""What holds for every public optimizer and transformation."""

import os
import subprocess
import sys

import pytest

import lrjax as L
from tests.everything import BASES, EVERYTHING

each = pytest.mark.parametrize("name", EVERYTHING)


def test_the_table_is_complete():
    classes = {name for name, thing in vars(L).items() if isinstance(thing, type)}
    transforms = {name for name in classes if issubclass(getattr(L, name), L.GradientTransformation)}
    assert transforms - set(BASES) <= set(EVERYTHING)


@pytest.mark.slow
def test_on_meshes_and_inside_of_shard_map():
    command = [sys.executable, "-m", "tests.transforms.sharded"]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"JAX_PLATFORMS": "cpu"})
    assert done.stdout.strip() == "sharded 8", done.stderr
