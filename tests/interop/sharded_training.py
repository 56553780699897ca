"""Trains on a mesh of eight devices, data-parallel and with sharded parameters (FSDP), beside one device: a program of
its own, since the number of devices is fixed when JAX starts."""

import tempfile

import jax
import numpy as np
import orbax.checkpoint
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from jax.tree_util import keystr, tree_leaves_with_path

import lrjax as L
from tests.interop.frameworks import FRAMEWORKS, PlainJAX

STEPS, HALF = 24, 12
MODES = {"data-parallel": P(), "sharded": P("devices")}
OPTIMIZERS = {
    "adamw": L.adamw(1e-2),
    "lion": L.lion(1e-3),
    "adafactor": L.adafactor(1e-2, min_dim_size_to_factor=16, momentum=0.9),
    "muon": L.muon(1e-2),
    "MultiSteps": L.MultiSteps(L.chain(L.clip_by_global_norm(1.0), L.adamw(1e-2)), 2),
    "averaged, on plateau": L.chain(L.adamw(1e-2), L.ema_params(0.9), L.reduce_on_plateau(0.5, patience=1, rtol=0.3)),
}
CASES = {name: (PlainJAX, tx) for name, tx in OPTIMIZERS.items()}
AVERAGED = L.chain(L.adamw(1e-2), L.ema_params(0.9))
CASES |= {name: (framework, AVERAGED) for name, framework in FRAMEWORKS.items() if framework is not PlainJAX}


def assert_as_parameters(tree, params, what):
    """Every array of a state is sharded as the parameter with whose path its own ends, a mean of rows or columns as the
    axis that it keeps; all others are on every device."""
    own = {path: p for path, p in tree_leaves_with_path(params) if not callable(p)}
    seen, mesh = set(), next(iter(own.values())).sharding.mesh
    for path, x in tree_leaves_with_path(tree):
        if not isinstance(x, jax.Array):
            continue  # the `step` of a new TrainState
        expected = P()
        end = next((path[i:] for i in range(len(path)) if path[i:] in own), None)
        if end is not None and x.shape != (1,):  # adafactor's, of what it doesn't factor
            p = own[end]
            spec = (*p.sharding.spec, *[None] * p.ndim)
            expected = p.sharding.spec if x.shape == p.shape else P(*[spec[p.shape.index(n)] for n in x.shape])
            seen.add(end)
        assert x.sharding.is_equivalent_to(NamedSharding(mesh, expected), x.ndim), (what, keystr(path), x.sharding)
    assert seen == set(own), (what, "has nothing like", set(own) - seen)


def check(name, mode, single_losses, data, mesh):
    (framework, tx), sharding = CASES[name], NamedSharding(mesh, MODES[mode])
    make = lambda: framework(tx, lambda params: jax.device_put(params, sharding))
    training = make()
    abstract = lambda p: p if callable(p) else jax.ShapeDtypeStruct(p.shape, p.dtype, sharding=p.sharding)
    placed = jax.tree.map(abstract, training.params)  # as they are before the first step
    assert_as_parameters(training.arrays, placed, (name, mode, "init"))
    losses = [training.step(data[0])]
    assert_as_parameters(training.arrays, placed, (name, mode, "update"))
    losses += [training.step(batch) for batch in data[1:HALF]]
    with tempfile.TemporaryDirectory() as folder, orbax.checkpoint.StandardCheckpointer() as checkpointer:
        checkpointer.save(f"{folder}/half", training.arrays)
        checkpointer.wait_until_finished()
        resumed = make()
        resumed.restore(checkpointer.restore(f"{folder}/half", resumed.arrays))
    assert_as_parameters(resumed.arrays, placed, (name, mode, "restore"))
    rest = [training.step(batch) for batch in data[HALF:]]
    assert_as_parameters(training.arrays, placed, (name, mode, "end"))
    np.testing.assert_allclose(losses + rest, single_losses, rtol=1e-5, err_msg=f"{name}, {mode}")
    assert rest == [resumed.step(batch) for batch in data[HALF:]], (name, mode)


def main():
    mesh = jax.make_mesh((8,), ("devices",), axis_types=(AxisType.Auto,))
    for name, (framework, tx) in CASES.items():
        data, training = framework.batches(STEPS), framework(tx)
        single_losses = [training.step(batch) for batch in data]
        assert single_losses[-1] < single_losses[0]
        split = jax.device_put(data, NamedSharding(mesh, P("devices")))
        for mode in MODES:
            if (name, mode) == ("NumPyro", "sharded"):
                continue  # SVI makes parameters and state at once: a user places neither
            compiled = PlainJAX._step._cache_size()
            with jax.set_mesh(mesh):  # so that the scalars of the state are on all devices from the start
                check(name, mode, single_losses, split, mesh)
            assert PlainJAX._step._cache_size() == compiled + (framework is PlainJAX), name
    print("sharded", len(jax.devices()))


if __name__ == "__main__":
    main()
