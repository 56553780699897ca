"""Runs side by side, each of them sharded over further axes of the mesh: what one device gives, without communication
between runs."""

import re
import subprocess
import sys
import tempfile

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

import lrjax as L
from tests.workers import in_two_processes

X = np.random.default_rng(0).normal(size=(96, 16)).astype(np.float32)
Y = np.sin(X.sum(axis=1, keepdims=True))
RATES = np.geomspace(1e-3, 1e-1, 3)
SPECS = {"w": P(None, "model"), "v": P("model"), "c": None}
BATCH = (P("data"), P("data"))


def init(key):
    a, b = jax.random.split(key)
    return {"w": jax.random.normal(a, (16, 32)) / 4, "v": jax.random.normal(b, (32, 1)) / 6, "c": jnp.zeros(1)}


def loss_fn(params, batch):
    x, y = batch
    return jnp.mean((jnp.tanh(x @ params["w"]) @ params["v"] + params["c"][None] - y) ** 2)


def task_of(init=init, **fields):
    # the last batch of the validation set, of 16, cannot be split as the others
    options = {"metrics": {"all": (loss_fn, "min")}, "validation": (X[:90], Y[:90]), "validation_batch_size": 32}
    return L.Task(loss_fn, init, (X, Y), batch_size=16, **options, **fields)


def swept(mesh=None, **fields):
    tx = L.chain(L.clip_by_global_norm(1.0), L.adamw(L.cosine_decay_schedule(RATES, 30)), L.ema_params(0.9))
    options = {name: fields.pop(name) for name in ("checkpoint", "runs_per_device") if name in fields}
    return L.sweep(task_of(**fields), tx, steps=30, seeds=2, eval_every=10, mesh=mesh, progress=False, **options)


def alone():
    return jax.sharding.Mesh(np.array(jax.devices()[:1]), ("runs",))


def same(ours, theirs):
    np.testing.assert_allclose(ours.losses, theirs.losses, rtol=1e-5)
    np.testing.assert_allclose(ours.metrics["all"], theirs.metrics["all"], rtol=1e-5)
    for run in (lambda result: result.run.params, lambda result: result.run.evaluation_params):
        for x, y in zip(jax.tree.leaves(run(ours)), jax.tree.leaves(run(theirs)), strict=True):
            np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-6)


def groups_of(hlo):
    """The groups of devices that communicate, of all collectives in a compiled program, as XLA writes them."""
    found, read = [], 0
    numbers = lambda text: tuple(map(int, re.findall(r"\d+", text)))
    for given in re.findall(r"(?:replica_groups|source_target_pairs)=(\{\{.*?\}\})", hlo):
        found, read = found + [list(numbers(group)) for group in given.split("},{")], read + 1

    def devices(shape, axes):
        """As many as the product of the shape, with its axes in another order."""
        numbered = np.arange(np.prod(shape)).reshape(shape)
        return numbered.transpose(numbers(axes) or range(numbered.ndim)).ravel()

    for shape, order, axes in re.findall(r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", hlo):
        found, read = found + devices(numbers(order), axes).reshape(numbers(shape)).tolist(), read + 1
    order = r"(?:, device_ids=\(\[([\d,]+)\](?:T\(([\d,]+)\))?\))?"
    for mesh, shape, axes, joined in re.findall(r"replica_groups=mesh\[(.*?)\]" + order + r" ?\{(.*?)\}", hlo):
        sizes = {name: int(size) for name, size in re.findall(r"'(\w+)'=(\d+)", mesh)}
        numbered = devices(numbers(shape) or tuple(sizes.values()), axes).reshape(*sizes.values())
        along = [list(sizes).index(name) for name in re.findall(r"'(\w+)'", joined)]
        groups = np.moveaxis(numbered, along, range(-len(along), 0))
        count = np.prod([numbered.shape[axis] for axis in along])
        found, read = found + groups.reshape(-1, count).tolist(), read + 1
    assert read == len(re.findall("replica_groups=|source_target_pairs=", hlo))
    return found


def main():
    """In a process with eight devices."""
    from lrjax.training import engine

    programs, compiled = [], engine.compiled

    def noted(program):
        found = compiled(program)
        programs.append((program, found))
        return found

    engine.compiled = noted
    expected = swept(alone())
    both = {"param_specs": SPECS, "batch_specs": BATCH}
    only = {"param_specs": SPECS}
    function = {"param_specs": lambda params: {name: SPECS[name] for name in params}}
    as_tree = {"init": jax.tree.map(np.asarray, init(jax.random.key(0)))}
    from_tree = swept(alone(), **as_tree)
    meshes = {
        "2 x 4": (jax.make_mesh((2, 4), ("runs", "model")), only, expected),
        "4 x 2, in another order": (jax.make_mesh((2, 4), ("model", "runs")), only, expected),
        "4 x 2 data": (jax.make_mesh((4, 2), ("runs", "data")), {"batch_specs": BATCH}, expected),
        "2 x 2 x 2": (jax.make_mesh((2, 2, 2), ("runs", "data", "model")), both, expected),
        "function": (jax.make_mesh((2, 4), ("runs", "model")), function, expected),
        "one run at a time": (jax.make_mesh((2, 4), ("data", "model")), both, expected),
        "8 x 1": (jax.make_mesh((8, 1), ("runs", "model")), only, expected),
        "1 x 8": (jax.make_mesh((1, 8), ("runs", "model")), only, expected),
        "tree": (jax.make_mesh((2, 4), ("runs", "model")), only | as_tree, from_tree),
        "vectorised": (jax.make_mesh((2, 4), ("runs", "model")), only | {"runs_per_device": 2}, expected),
    }
    for name, (mesh, fields, theirs) in meshes.items():
        programs.clear()
        ours = swept(mesh, **fields)
        same(ours, theirs)
        (program, found), parts = programs[-1], mesh.shape.get("model", 1)
        across = program.mesh.devices.reshape(program.mesh.shape["runs"], -1)
        assert found.advance._cache_size() == 1, name  # compiled as it is called
        if "param_specs" in fields:
            adam, ema = ours.run.opt_state[1][0], ours.run.opt_state[2]
            for tree in (ours.run.params, adam.mu, adam.nu, ema.average, ours.run.evaluation_params):
                assert [s.data.shape for s in tree["w"].addressable_shards] == [(16, 32 // parts)] * across.shape[1]
                assert tree["v"].addressable_shards[0].data.shape == (32 // parts, 1)
        # no collective joins devices of two runs
        groups = groups_of(texts[-1])  # of places in the mesh
        assert bool(groups) == (across.shape[1] > 1) and all(
            len({i // across.shape[1] for i in group}) == 1 for group in groups
        ), (name, groups)
    interrupted(jax.make_mesh((2, 4), ("runs", "model")), only, expected)
    continued(jax.make_mesh((4, 2), ("data", "model")), both)
    print("all")


def interrupted(mesh, fields, expected):
    """A checkpoint of sharded runs, in the midst of them."""
    from lrjax.training import checkpoint, engine

    engine.CALL_SECONDS, checkpoint.SAVING_FRACTION = 0.0, 1.0  # a step a call, and each is saved
    dispatch, calls = engine.Engine._dispatch, []

    def breaking(self, wave, *rest):
        calls.append(wave)
        if len(calls) == 40:
            raise KeyboardInterrupt
        return dispatch(self, wave, *rest)

    with tempfile.TemporaryDirectory() as folder:
        engine.Engine._dispatch = breaking
        with pytest.raises(KeyboardInterrupt):
            swept(mesh, checkpoint=folder, **fields)
        engine.Engine._dispatch = dispatch
        made = len(calls)
        resumed = swept(mesh, checkpoint=folder, **fields)
    same(resumed, expected)
    assert made == 40


def continued(mesh, fields):
    """`train(start=)`: sharded, on one device, and from a checkpoint of one device on two."""
    from lrjax.training import engine

    tx = L.chain(L.clip_by_global_norm(1.0), L.adamw(L.cosine_decay_schedule(0.03, 30)), L.ema_params(0.9))
    options = {"steps": 30, "eval_every": 10, "progress": False}
    whole = L.train(task_of(**fields), tx, mesh=mesh, **options)
    half = L.train(task_of(**fields), tx, mesh=mesh, **options | {"steps": 10})
    run = L.train(task_of(**fields), tx, mesh=mesh, start=half, **options)
    trees = ((x.params, x.opt_state) for x in (run, whole))
    for a, b in zip(*map(jax.tree.leaves, trees), strict=True):
        np.testing.assert_array_equal(a, b)
        assert a.sharding == b.sharding
    np.testing.assert_array_equal(run.metrics["all"], whole.metrics["all"])
    dispatch, calls, engine.FIRST_CALL_STEPS = engine.Engine._dispatch, [], 1

    def breaking(self, *rest):
        calls.append(None)
        if len(calls) == 7:
            raise KeyboardInterrupt
        return dispatch(self, *rest)

    with tempfile.TemporaryDirectory() as folder:
        engine.Engine._dispatch = breaking
        with pytest.raises(KeyboardInterrupt):
            L.train(task_of(), tx, start=half, checkpoint=folder, **options)
        engine.Engine._dispatch = dispatch
        two = jax.sharding.Mesh(np.array(jax.devices()[:2]), ("runs",))
        again = L.train(task_of(), tx, start=half, checkpoint=folder, mesh=two, **options)
    np.testing.assert_allclose(again.losses, whole.losses, rtol=1e-5)
    np.testing.assert_allclose(again.metrics["all"], whole.metrics["all"], rtol=1e-5)


texts = []


def note_compiled():
    """Keeps the text of each program that the engine compiles."""
    from lrjax.training.compiled import Compiled

    made = Compiled.__init__

    def noted(self):
        made(self)
        trace = self.advance.trace

        class Advance:
            _cache_size = staticmethod(self.advance._cache_size)

            def __call__(self, *args, call=self.advance):
                return call(*args)

            def trace(self, *args):
                traced = trace(*args)
                texts.append(traced.lower().compile().as_text())
                return traced

        self.advance = Advance()

    Compiled.__init__ = noted


PROGRAM = """
import jax; jax.config.update("jax_num_cpu_devices", 8)
import tests.training.test_sharded_runs as here
here.note_compiled()
here.main()
"""


@pytest.mark.slow
def test_sharded_runs_give_what_one_device_gives():
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout == "all\n"


JOINED = """
import sys, jax
process, port = int(sys.argv[1]), sys.argv[2]
jax.config.update("jax_num_cpu_devices", 2)
jax.distributed.initialize(f"127.0.0.1:{port}", 2, process)
from tests.training.test_sharded_runs import *

devices = np.array(jax.devices()).reshape(2, 2)
for axes in (("runs", "model"), ("model", "runs")):  # runs in two processes, then each run over both
    found = swept(jax.sharding.Mesh(devices, axes), param_specs=SPECS)
    np.save(f"{sys.argv[3]}/{axes[0]}{process}.npy", found.losses)
"""


@pytest.mark.slow
@pytest.mark.promotes
def test_sharded_runs_in_two_processes(tmp_path):
    in_two_processes(JOINED, str(tmp_path))
    expected = swept(alone())
    for name in ("runs0", "runs1", "model0", "model1"):
        np.testing.assert_allclose(np.load(tmp_path / f"{name}.npy"), expected.losses, rtol=1e-5)


def test_groups_are_read_as_xla_writes_them():
    assert groups_of("replica_groups=[2,4]<=[8], x") == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert groups_of("replica_groups=[4,2]<=[2,4]T(1,0), x") == [[0, 4], [1, 5], [2, 6], [3, 7]]
    assert groups_of("replica_groups=mesh['axis_0'=2,'axis_1'=2] {'axis_1'}, x") == [[0, 1], [2, 3]]
    assert groups_of("replica_groups=mesh['axis_0'=2,'axis_1'=2] {'axis_0'}, x") == [[0, 2], [1, 3]]
    order = "device_ids=([2,4]T(1,0))"
    assert groups_of("replica_groups=mesh['axis_0'=4,'axis_1'=2], " + order + " {'axis_0'}, x") == [
        [0, 1, 2, 3], [4, 5, 6, 7]]  # fmt: skip
    assert groups_of("replica_groups={{0,1},{2,3}}, x source_target_pairs={{0,1},{1,0}}, ") == [
        [0, 1], [2, 3], [0, 1], [1, 0]]  # fmt: skip


@pytest.mark.parametrize(
    ("fields", "axis", "words"),
    [
        ({"param_specs": SPECS}, None, "`mesh` must be one with the axes of the task's specs, got None"),
        ({"param_specs": SPECS}, "runs", "`mesh` must be one with the axes of the task's specs"),
        ({"param_specs": SPECS}, "a", "v has the shape \\(32, 1\\), and 'model' is no axis of a run: \\['a'\\]"),
        ({"param_specs": {"w": P()}}, "model", "`param_specs` must be a prefix of the tree"),
        ({"param_specs": {"w": P("runs"), "v": P(), "c": P()}}, "model", "'runs' is no axis of a run"),
        ({"param_specs": lambda params: 3}, "model", "PartitionSpecs in a tree, or a function"),
        ({"param_specs": {"w": 3}}, "model", "PartitionSpecs in a tree, or a function"),
    ],
)
def test_specs_that_do_not_fit(fields, axis, words):
    mesh = axis and jax.sharding.Mesh(np.array(jax.devices()[:1]), (axis,))
    with pytest.raises(ValueError, match=words):
        L.train(task_of(**fields), L.adam(0.1), steps=3, mesh=mesh, progress=False)


def test_specs_that_do_not_divide():
    mesh, params = jax.sharding.AbstractMesh((3,), ("model",)), jax.eval_shape(init, jax.random.key(0))
    sharding = task_of(param_specs=SPECS).run_sharding
    with pytest.raises(ValueError, match="v has the shape \\(32, 1\\), and its axis 0 has to be split into 3"):
        sharding.param_specs(params, params, mesh)


def test_the_state_of_an_optimizer_is_sharded_as_its_parameters():
    """By path and shape, through any nesting."""
    params = jax.eval_shape(init, jax.random.key(0))
    mesh, sharding = jax.sharding.AbstractMesh((4,), ("model",)), task_of(param_specs=SPECS).run_sharding
    specs = sharding.param_specs(params, params, mesh)
    tx = L.chain(L.masked(L.adam(0.1), {"w": True, "v": True, "c": False}), L.ema(0.9), L.scale_by_factored_rms())
    state = jax.eval_shape(tx.init, params)
    found = sharding.state_specs(state, params, specs)
    for (_, x), spec in zip(jax.tree_util.tree_leaves_with_path(state), jax.tree.leaves(found), strict=True):
        assert spec == {(16, 32): P(None, "model"), (32, 1): P("model")}.get(x.shape, P())
