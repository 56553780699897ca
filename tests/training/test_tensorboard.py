"""What the callbacks of `train` write for TensorBoard, read back from its event file."""

import struct

import jax.numpy as jnp
import numpy as np
import pytest

import lrjax as L


def loss_fn(params, batch):
    loss = jnp.mean((batch @ params - 1.0) ** 2)
    return loss, {"norm": jnp.linalg.norm(params)}


def events_in(folder):
    """Those of the one file in a folder: each is its length, a checksum of it, itself, and a checksum."""
    event_pb2 = pytest.importorskip("tensorboardX.proto.event_pb2")
    (file,) = folder.iterdir()
    data, begin = file.read_bytes(), 0
    while begin < len(data):
        (length,) = struct.unpack_from("<Q", data, begin)
        yield event_pb2.Event.FromString(data[begin + 12 : begin + 12 + length])
        begin += 12 + length + 4


def test_every_number_is_in_the_event_file(tmp_path):
    tensorboard_x = pytest.importorskip("tensorboardX")
    x = np.random.default_rng(0).normal(size=(64, 3)).astype(np.float32)
    task = L.Task(loss_fn, jnp.zeros(3), x, 16, has_aux=True, validation=x[:20])
    with tensorboard_x.SummaryWriter(str(tmp_path)) as writer:
        log = lambda row: [writer.add_scalar(name, x, row["step"]) for name, x in row.items() if name != "step"]
        optimizer = L.adam(L.cosine_decay_schedule(0.1, 30))
        run = L.train(task, optimizer, steps=30, eval_every=7, on_step=log, on_eval=log, progress=False)
    found = {}
    for event in events_in(tmp_path):
        for value in event.summary.value:
            found.setdefault(value.tag, []).append((event.step, value.simple_value))
    expected = {"loss": run.losses, "learning_rate": run.learning_rates, **run.aux}
    expected = {name: list(enumerate(map(float, x))) for name, x in expected.items()}
    metric = map(float, run.metrics["validation loss"])
    expected["validation_loss"] = list(zip(run.evaluated_at.tolist(), metric, strict=True))
    assert found == expected and len(expected["validation_loss"]) == 5
