"""Optax's own tests pass with lrjax in its place, but for the differences that are told here, each with its reason.

Those of whole optimizers (alias_test.py, _common_test.py) take minutes to compile and aren't run: `tests/optimizers`
compares the same optimizers with Optax's.

A difference that is gone fails the test as well: then its line goes, too.
"""

import json
import re

import pytest

from tests.interop.optaxs_tests import Outcome, run
from tests.workers import python

RATE_IN_STATE = "the state of a learning rate is a LearningRateState, which holds it; Optax's is empty, or a count"
RAISES_EARLY = "a bad argument raises when the value is made, not at its first use"
BAD_STEPS = "a bad number of steps raises; Optax makes a constant of it"
MESSAGE = "the error for a mask of another structure has words of its own"

# Of the tests in a file: regular expression for labels -> why they fail
DIFFERENT = {
    "schedules/_inject_test.py": {
        "test_hyperparam_default_dtype_bf16": "hyperparameters are float32, whatever the parameters are",
    },
    "schedules/_schedule_test.py": {
        "CosineDecayTest.test_with_giant_int_steps": "a number of steps above 2³¹−1 counts as 2³¹−1",
        r"ExponentialTest.test_end_value_with_staircase. \(1.0": "a rate that neither rises nor falls stays away from "
        "its end value",
        "ExponentialTest.test_nonvalid_decay_rate": "with a decay rate of 0 it falls to 0; Optax's is constant",
        "test_nonvalid_transition_steps|PolynomialTest.test_zero_steps_schedule": BAD_STEPS,
        "PiecewiseInterpolateTest.test_invalid_scale": "scales may be negative: schedules are also parts of others",
        "WarmupCosineDecayTest.test_zero_peak_value": "goes to its end value from a peak of 0, too; Optax's stays",
    },
    "schedules/_join_test.py": {},
    "transforms/_masking_test.py": {},
    "transforms/_freezing_test.py": {
        "bad_structure": MESSAGE,
    },
    "transforms/_combining_test.py": {},
    "transforms/_accumulation_test.py": {},
    "transforms/_conditionality_test.py": {},
    "transforms/_clipping_test.py": {"test_clip_by_block_rms": "compares to 1e-7, less than a float32 rounding"},
    "transforms/_constraining_test.py": {},
    "transforms/_monitoring_test.py": {},
    "transforms/_layouts_test.py": {},
    "transforms/_adding_test.py": {},
    "_src/combine_test.py": {},
    "_src/lookahead_test.py": {},
    "_src/update_test.py": {},
    "_src/transform_test.py": {
        "test_lion_invalid_mode_raises": RAISES_EARLY,
        "test_scale_by_polyak_l1_norm": "without a `value` it is a ValueError, not a TypeError",
    },
    "_src/factorized_test.py": {},
    "_src/sharding_test.py": {},
    "tree_utils/_state_utils_test.py": {
        "test_adam$|test_map_(non_)?params_to_none|test_tree_get_all_with_path": RATE_IN_STATE,
    },
    "contrib/_muon_test.py": {},
    "contrib/_complex_valued_test.py": {},
}
# Run in part: which tests, and why not the others
SELECTED = {
    # the others are of each optimizer with each dtype
    "transforms/_accumulation_test.py": "^(?!.*mixed_precision)",
    # the others take long to compile; the preconditionings are compared in test_orthogonal.py
    "contrib/_muon_test.py": "dim_nums",
    # 20 s of sampling
    "transforms/_adding_test.py": "^(?!.*variance_scaling)",
}
ON_EIGHT_DEVICES = """
import json, sys
from tests.interop.optaxs_tests import run
print(json.dumps(run(sys.argv[1])))
"""

pytestmark = pytest.mark.usefixtures("quick_compilation")


def outcome(path: str) -> Outcome:
    if path != "_src/sharding_test.py":
        return run(path, SELECTED.get(path, ""))
    devices = "--xla_force_host_platform_device_count=8"  # which JAX takes before it does anything
    return Outcome(*json.loads(python(ON_EIGHT_DEVICES, path, XLA_FLAGS=devices).splitlines()[-1]))


@pytest.mark.slow
@pytest.mark.promotes
@pytest.mark.sampled(8)
@pytest.mark.parametrize("path", DIFFERENT)
def test_optaxs_tests_pass_but_for(path):
    passed, failed = outcome(path)
    unexpected = {name: error for name, error in failed.items() if not any(re.search(p, name) for p in DIFFERENT[path])}
    assert not unexpected, "\n".join(f"{name}: {error}" for name, error in unexpected.items())
    for pattern in DIFFERENT[path]:
        assert any(re.search(pattern, name) for name in failed), pattern
        assert [name for name in passed if re.search(pattern, name)] == []
    assert passed or failed
