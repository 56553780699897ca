"""What a sweep found, as NumPy arrays."""

import dataclasses
import json
from functools import cached_property
from os import PathLike
from typing import Any

import numpy as np

from lrjax.value import bad_argument

TAIL = 0.1  # the part of a run, its end, whose mean loss is its result


@dataclasses.dataclass(frozen=True, eq=False)
class SweepResult:
    """The runs of a sweep: settings × seeds.

    The loss of a run is its `eval`, where there was an `eval_fn`, else the mean over the last tenth of its steps;
    that of a run that diverged is infinite. The loss of a setting is the mean over its seeds.

    >>> import jax.numpy as jnp, lrjax
    >>> rates = jnp.array([0.01, 0.4, 1.5])
    >>> result = lrjax.sweep(lambda w, x: jnp.sum((w - x) ** 2), jnp.zeros(2), jnp.ones((20, 2)), lrjax.sgd(rates))
    >>> result.rows()[1]
    {'learning_rate': 0.4, 'loss': 0.0, 'loss_spread': 0.0, 'diverged': 0, 'seeds': 1}
    """

    learning_rates: np.ndarray  # [settings]: the rate of each, the highest of a schedule
    settings: dict[str, np.ndarray]  # by name: the hyperparameters that differ, [settings, ...]
    losses: np.ndarray  # [settings, seeds, steps]: before each update; nan after a run diverged
    eval: np.ndarray | None  # [settings, seeds]: of `eval_fn`, after the last step
    diverged: np.ndarray  # bool [settings, seeds]

    @cached_property
    def final(self) -> np.ndarray:
        """[settings, seeds]: the loss of each run, inf where it diverged."""
        tail = max(1, round(self.losses.shape[2] * TAIL))
        loss = self.losses[:, :, -tail:].mean(axis=2) if self.eval is None else self.eval
        return np.where(self.diverged | ~np.isfinite(loss), np.inf, loss)

    @cached_property
    def loss(self) -> np.ndarray:
        """[settings]: the mean over the seeds."""
        return self.final.mean(axis=1)

    @cached_property
    def spread(self) -> np.ndarray:
        """[settings]: the standard deviation over the seeds; nan where one diverged."""
        with np.errstate(invalid="ignore"):
            return self.final.std(axis=1)

    @property
    def best(self) -> int:
        """The setting of the lowest loss; of several, the first.

        Raises:
          ValueError: every run diverged.
        """
        if not np.isfinite(self.loss).any():
            raise ValueError("SweepResult: there is no best setting, as every one diverged.")
        return int(np.argmin(self.loss))

    @property
    def best_learning_rate(self) -> float:
        return float(self.learning_rates[self.best])

    @cached_property
    def start(self) -> float:
        """The loss before the first update: the mean over the runs in which it is finite."""
        first = self.losses[:, :, 0]
        return float(np.mean(first[np.isfinite(first)])) if np.isfinite(first).any() else float("nan")

    def _curve(self) -> tuple[np.ndarray, np.ndarray]:
        """(rates, ascending, the best loss at each): over the other hyperparameters."""
        rates = np.unique(self.learning_rates)
        return rates, np.array([self.loss[self.learning_rates == rate].min() for rate in rates])

    def band(self, tolerance: float = 0.05) -> tuple[float, float]:
        """(lowest, highest) rate of the widest band, without a gap, whose losses are near the best.

        Near: above the lowest loss by no more than `tolerance` of what training took off, or than the spread over the
        seeds of the best setting.
        """
        if not (isinstance(tolerance, (int, float)) and 0 <= tolerance < 1):
            raise bad_argument("SweepResult.band", "tolerance", "a number in [0, 1)", tolerance)
        lowest = self.loss[self.best]
        allowed = max(tolerance * (self.start - lowest), self.spread[self.best], 0.0)
        rates, curve = self._curve()
        near = curve <= lowest + allowed
        edges = np.flatnonzero(np.diff(np.concatenate([[False], near, [False]])))
        bands = [(rates[a], rates[b - 1]) for a, b in edges.reshape(-1, 2)]
        low, high = max(bands, key=lambda band: _decades(*band))
        return float(low), float(high)

    @property
    def stable_range(self) -> float:
        """The width of `band()`, in decades: how little the choice of the rate matters."""
        return _decades(*self.band())

    @property
    def largest_stable_learning_rate(self) -> float:
        """The highest rate below which, itself included, no run diverged; nan where the lowest did."""
        rates, _ = self._curve()
        fine = [not self.diverged[self.learning_rates == rate].any() for rate in rates]
        stable = rates[: fine.index(False) if False in fine else len(fine)]
        return float(stable[-1]) if len(stable) else float("nan")

    @property
    def sensitivity(self) -> float:
        """The mean over the rates of min(loss, start) − lowest loss: 0 where any rate will do.

        Take rates at equal ratios; the same ones, to compare two models.

        Source: Wortsman et al. 2023, Small-scale proxies for large-scale Transformer training instabilities,
        arXiv:2309.14322, section 2.2.
        """
        _, curve = self._curve()
        return float(np.mean(np.minimum(curve, self.start) - curve.min()))

    def rows(self) -> list[dict[str, Any]]:
        """A dict for each setting, for `pandas.DataFrame` and loggers; an infinite loss means diverged."""
        varied = {name: x for name, x in self.settings.items() if x.ndim == 1 and name != "learning_rate"}
        return [
            {
                "learning_rate": float(self.learning_rates[i]),
                **{name: x[i].item() for name, x in varied.items()},
                "loss": float(self.loss[i]),
                "loss_spread": float(self.spread[i]),
                "diverged": int(self.diverged[i].sum()),
                "seeds": self.diverged.shape[1],
            }
            for i in range(len(self.learning_rates))
        ]

    def save(self, path: str | PathLike[str]) -> None:
        """Writes a `.npz` file, whose name is `path` as it is."""
        arrays = {f"settings/{name}": x for name, x in self.settings.items()}
        evaluated = {} if self.eval is None else {"eval": self.eval}
        with open(path, "wb") as file:
            np.savez_compressed(
                file,
                allow_pickle=False,
                learning_rates=self.learning_rates,
                losses=self.losses,
                diverged=self.diverged,
                names=json.dumps(list(self.settings)),
                **arrays,
                **evaluated,
            )

    @classmethod
    def load(cls, path: str | PathLike[str]) -> "SweepResult":
        """Reads what `save` wrote."""
        with np.load(path, allow_pickle=False) as file:
            names = json.loads(str(file["names"]))
            return cls(
                learning_rates=file["learning_rates"],
                settings={name: file[f"settings/{name}"] for name in names},
                losses=file["losses"],
                eval=file["eval"] if "eval" in file else None,
                diverged=file["diverged"],
            )

    def plot(self, ax: Any = None) -> Any:
        """Loss over rate with matplotlib (extra: plot): a dot for each run, the mean, the spread over the seeds; where
        runs diverged is shaded, and the best rate is marked. Returns the axes."""
        from lrjax.search.pictures import plot_losses

        return plot_losses(self, ax)

    def plot_curves(self, ax: Any = None) -> Any:
        """The loss of every setting over the steps, smoothed, from a low rate to a high one. Returns the axes."""
        from lrjax.search.pictures import plot_curves

        return plot_curves(self, ax)

    def _repr_html_(self) -> str:
        from lrjax.search.pictures import as_html

        return as_html(self.rows(), self.best if np.isfinite(self.loss).any() else None)


def _decades(low: float, high: float) -> float:
    return float(np.log10(high / low)) if low > 0 else 0.0
