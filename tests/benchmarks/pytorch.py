"""PyTorch's own optimizers on the same arrays and the same kind of device, where PyTorch is installed."""

import importlib.util
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

OPTIMIZERS: dict[str, Callable[[Any, Any], Any]] = {
    "sgd, momentum": lambda optim, params: optim.SGD(params, lr=1e-3, momentum=0.9),
    "adagrad": lambda optim, params: optim.Adagrad(params, lr=1e-3, initial_accumulator_value=0.1),
    "rmsprop": lambda optim, params: optim.RMSprop(params, lr=1e-3, alpha=0.9),
    "adam": lambda optim, params: optim.Adam(params, lr=1e-3),
    "adamw": lambda optim, params: optim.AdamW(params, lr=1e-3, weight_decay=1e-4),
    "amsgrad": lambda optim, params: optim.Adam(params, lr=1e-3, amsgrad=True),
    "clip_by_global_norm, adamw": lambda optim, params: optim.AdamW(params, lr=1e-3, weight_decay=1e-4),
}


def installed() -> bool:
    return importlib.util.find_spec("torch") is not None


def device() -> str:
    """The one beside JAX's default device."""
    import torch

    return "cuda" if jax.default_backend() == "gpu" and torch.cuda.is_available() else "cpu"


def has(name: str) -> bool:
    return name in OPTIMIZERS and installed()


def step(name: str, params: Any, grads: Any) -> Callable[[], Any]:
    """One step of the optimizer, as PyTorch runs it by default; waited for, as JAX's are."""
    import torch

    where, tensors = device(), []
    for p, g in zip(jax.tree.leaves(params), jax.tree.leaves(grads), strict=True):
        tensor = torch.nn.Parameter(torch.from_numpy(np.array(p)).to(where))
        tensor.grad = torch.from_numpy(np.array(g)).to(where)
        tensors.append(tensor)
    optimizer = OPTIMIZERS[name](torch.optim, tensors)

    def call() -> None:
        if name.startswith("clip"):
            torch.nn.utils.clip_grad_norm_(tensors, 1.0)
        optimizer.step()
        if where == "cuda":
            torch.cuda.synchronize()

    return call
