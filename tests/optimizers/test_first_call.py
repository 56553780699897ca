"""The way of the first eager update through the package: a reader, or a debugger, follows all of it."""

import subprocess
import sys

PROGRAM = """if True:
    import sys
    import jax.numpy as jnp, lrjax
    params = {name: jnp.ones(3) for name in "abcd"}
    tx = lrjax.adam(1e-3)
    state, calls, files = tx.init(params), 0, set()

    def count(frame, event, argument):
        global calls
        if event == "call" and "lrjax" in frame.f_globals.get("__name__", ""):
            calls += 1
            files.add(frame.f_code.co_filename)

    sys.setprofile(count)
    tx.update(params, state, params)
    sys.setprofile(None)
    print(calls, len(files))
"""


def test_a_first_eager_update_with_adam_is_short():
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    calls, files = map(int, done.stdout.split())
    assert 50 < calls <= 200 and files <= 11
