"""Text: a character-level language model of the source of Python's standard library, which every machine has."""

import sysconfig
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lrjax.training.task import Task

_TRAIN = (
    "argparse.py", "ast.py", "configparser.py", "dataclasses.py", "datetime.py", "difflib.py", "enum.py", "inspect.py",
    "pathlib.py", "subprocess.py", "tarfile.py", "textwrap.py", "typing.py", "zipfile.py",
)  # fmt: skip
_TEST = ("csv.py", "heapq.py", "shutil.py", "statistics.py", "tempfile.py")
_LETTERS = "\n" + "".join(map(chr, range(32, 127)))
_CONTEXT, _WIDTH, _HEADS = 24, 32, 2


def text() -> Task:
    """Makes a next-letter prediction task with a Transformer of one layer."""
    return Task(
        _loss,
        _init,
        _windows(_TRAIN),
        batch_size=16,
        metrics={"bits per letter": (_bits_per_letter, "min")},
        validation=_windows(_TEST)[:256],
        steps=500,
        name="text",
        description="The source of Python's library, letter by letter; a Transformer with one layer of width "
        f"{_WIDTH}, {_CONTEXT} letters at a time, batches of 16",
    )


def _windows(names: tuple[str, ...]) -> np.ndarray:
    """Returns the letters of the files that exist, in order, as indices [windows, context + 1]."""
    folder = Path(sysconfig.get_paths()["stdlib"])
    files = [folder / name for name in names if (folder / name).is_file()]
    words = "".join(file.read_text(encoding="utf-8") for file in files)
    index = np.full(0x110000, _LETTERS.index("?"), np.int32)
    index[[ord(letter) for letter in _LETTERS]] = np.arange(len(_LETTERS))
    letters = index[np.frombuffer(words.encode("utf-32-le"), np.uint32)]
    count = (len(letters) - 1) // _CONTEXT
    at = np.arange(count)[:, None] * _CONTEXT + np.arange(_CONTEXT + 1)
    return letters[at]


def _init(key: jax.Array) -> Any:
    width, letters = _WIDTH, len(_LETTERS)
    shapes = {
        "embed": ((letters, width), width),
        "position": ((_CONTEXT, width), width),
        "qkv": ((width, 3 * width), width),
        "out": ((width, width), width),
        "up": ((width, 4 * width), width),
        "down": ((4 * width, width), 4 * width),
        "unembed": ((width, letters), width),
    }
    keys = jax.random.split(key, len(shapes))
    return {
        name: jax.random.normal(k, shape) / fan_in**0.5
        for k, (name, (shape, fan_in)) in zip(keys, shapes.items(), strict=True)
    }


def _rms_norm(x: jax.Array) -> jax.Array:
    return x * jax.lax.rsqrt(jnp.mean(x**2, axis=-1, keepdims=True) + 1e-6)


def _logits(params: Any, letters: jax.Array) -> jax.Array:
    """Returns the logits of the next letter at every position, [batch, context, letters]."""
    x = params["embed"][letters] + params["position"][None]
    q, k, v = (_split_heads(part) for part in jnp.split(_rms_norm(x) @ params["qkv"], 3, axis=-1))
    scores = jnp.einsum("bqhd,bkhd->bhqk", q, k) / (_WIDTH / _HEADS) ** 0.5
    mask = jnp.tril(jnp.ones((_CONTEXT, _CONTEXT), bool))
    attended = jnp.einsum("bhqk,bkhd->bqhd", jax.nn.softmax(jnp.where(mask[None, None], scores, -1e9)), v)
    x = x + attended.reshape(x.shape) @ params["out"]
    x = x + jax.nn.gelu(_rms_norm(x) @ params["up"]) @ params["down"]
    return _rms_norm(x) @ params["unembed"]


def _split_heads(x: jax.Array) -> jax.Array:
    return x.reshape(*x.shape[:2], _HEADS, -1)


def _loss(params: Any, windows: jax.Array) -> jax.Array:
    log_p = jax.nn.log_softmax(_logits(params, windows[:, :-1]))
    return -jnp.mean(jnp.sum(jax.nn.one_hot(windows[:, 1:], len(_LETTERS)) * log_p, axis=-1))


def _bits_per_letter(params: Any, windows: jax.Array) -> jax.Array:
    return _loss(params, windows) / jnp.log(2.0)
