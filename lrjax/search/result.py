"""The result of a sweep, as NumPy arrays."""

import dataclasses
import io
import json
from functools import cached_property
from os import PathLike
from typing import Any

import numpy as np

from lrjax.search.deciding_metric import DecidingMetric
from lrjax.search.judge import Scores, signed_rank, standard_error
from lrjax.search.verdict import Verdict, verdict
from lrjax.training.divergence import Control
from lrjax.training.files import write_file
from lrjax.training.record import first_reached, tail_steps
from lrjax.training.result import Run
from lrjax.value import bad_argument


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class SweepResult(DecidingMetric):
    """The runs of a sweep: settings × seeds.

    Runs are compared by the task's first metric after the last step, or by the mean loss over the last tenth of the
    steps.

    >>> import jax.numpy as jnp, lrjax
    >>> task = lrjax.Task(lambda w, x: jnp.sum((w - x) ** 2), jnp.zeros(2), jnp.ones((20, 2)), stacked=True)
    >>> result = lrjax.sweep(task, lrjax.sgd(jnp.array([0.01, 0.4, 1.5])))
    >>> result.rows()[1]
    {'learning_rate': 0.4, 'loss': 0.0, 'loss_spread': 0.0, 'diverged': 0, 'seeds': 1}
    """

    learning_rates: np.ndarray  # [settings]: the rate of each, the highest of a schedule
    settings: dict[str, np.ndarray]  # by name: the hyperparameters that differ, [settings, ...]
    losses: np.ndarray  # [settings, seeds, steps]: before each update; nan from where the parameters are not finite
    metrics: dict[str, np.ndarray]  # by name: [settings, seeds, evaluations]
    evaluated_at: np.ndarray  # [evaluations]: updates made before each
    modes: dict[str, str]  # of the metrics: "min" or "max"
    diverged: np.ndarray  # bool [settings, seeds]
    control: np.ndarray  # [seeds, steps]: losses without any update, at some steps; nan at the others
    start_metric: np.ndarray  # [seeds]: the first metric without training; nan where there is none
    start_error: np.ndarray  # [seeds]: the standard error of the fall of the first metric, where it matters; else 0
    failure: str | None = None  # what is wrong with the data, if anything is
    notes: tuple[str, ...] = ()
    run: Run | None = None  # the best run, with its model; None where `keep` is None, or every run diverged
    runs: list[list[Run]] | None = None  # [settings][seeds], with keep="all"

    @cached_property
    def mean(self) -> np.ndarray:
        """[settings]: of `final`, over the seeds."""
        return self.final.mean(axis=1)

    @cached_property
    def spread(self) -> np.ndarray:
        """[settings]: the standard deviation over the seeds; nan where one diverged."""
        with np.errstate(invalid="ignore"):
            return self.final.std(axis=1)

    @cached_property
    def scores(self) -> Scores:
        """`final` with the sign such that lower is better, and its standard errors."""
        settings, seeds, steps = self.losses.shape
        final, unsafe = self._sign * self.final, np.any(self.diverged, axis=1)
        if self.metric is not None:
            errors = np.zeros((settings, seeds))
            return Scores(final, self._sign * self.start_metric, self.start_error, errors, unsafe)
        control = Control(self.control)
        tails = self.losses[:, :, -tail_steps(steps) :].reshape(settings * seeds, -1)
        errors = np.where(np.isinf(final), 0.0, standard_error(tails).reshape(settings, seeds))
        batch_z = np.array([signed_rank(fall) for fall in control.fall(self.losses)])
        return Scores(final, control.mean, control.error, errors, unsafe, batch_z)

    @cached_property
    def _verdict(self) -> Verdict:
        rates, settings = self._best_by_rate()
        scores = self.scores.select(settings)
        return verdict(rates, scores, self.diverged[settings], self.failure, self.metric, (0, len(rates) - 1))

    def _best_by_rate(self) -> tuple[np.ndarray, np.ndarray]:
        """Returns (rates, ascending; the best setting with each rate)."""
        rates, means = np.unique(self.learning_rates), self.scores.mean
        with_rate = [np.flatnonzero(self.learning_rates == rate) for rate in rates]
        if np.isnan(self.learning_rates).all():
            return self.learning_rates, np.arange(len(means))
        return rates, np.array([settings[np.argmin(means[settings])] for settings in with_rate])

    @property
    def verdict(self) -> str:
        """The best rate in a sentence, or why none can be recommended."""
        return self._verdict.words

    @property
    def recommended(self) -> int | None:
        """The index of the best setting; None where the verdict recommends none."""
        return None if self._verdict.best is None else self.best

    @property
    def best(self) -> int:
        """The index of the setting with the best mean; of several, the first.

        Raises:
          ValueError: every run diverged.
        """
        if not np.isfinite(self.mean).any():
            raise ValueError("SweepResult: there is no best setting, as every one diverged.")
        return int(np.argmin(self.scores.mean))

    @property
    def best_learning_rate(self) -> float:
        return float(self.learning_rates[self.best])

    @cached_property
    def start(self) -> float:
        """The deciding metric or loss without training: the mean over the seeds."""
        start = self.scores.start
        return float(self._sign * np.nanmean(start)) if np.isfinite(start).any() else float("nan")

    def steps_to(self, metric: str, value: float) -> np.ndarray:
        """Returns [settings, seeds]: updates made when a metric first was as good as `value`, nan where it never was.
        The metric may be "loss", the loss of a batch.

        Raises:
          ValueError: there is no such metric.
        """
        if metric not in self.metrics and metric != "loss":
            raise bad_argument("SweepResult.steps_to", "metric", f"one of {['loss', *self.metrics]}", metric)
        is_loss = metric == "loss"
        values = self.losses if is_loss else self.metrics[metric]
        at = np.arange(values.shape[2]) if is_loss else self.evaluated_at
        reached = first_reached(values, at, value, self.modes.get(metric, "min"))
        return np.where(np.isinf(reached), np.nan, reached)

    def band(self, tolerance: float = 0.05) -> tuple[float, float]:
        """Returns (lowest, highest) of the rates around the best that do as well without a gap: worse by no more than
        `tolerance` of the fall from the start and a tenth of the best, or by no more than the noise and a fifth of it.

        Raises:
          ValueError: every run diverged, or `tolerance` is no number in [0, 1).
        """
        if not (isinstance(tolerance, (int, float)) and 0 <= tolerance < 1):
            raise bad_argument("SweepResult.band", "tolerance", "a number in [0, 1)", tolerance)
        rates, settings = self._best_by_rate()
        best = int(np.flatnonzero(settings == self.best)[0])
        first, last = self.scores.select(settings).band(best, tolerance)
        return float(rates[first]), float(rates[last])

    @property
    def stable_range(self) -> float:
        """The width of `band()`, in decades: how little the choice of the rate matters."""
        low, high = self.band()
        return float(np.log10(high / low)) if low > 0 else 0.0

    @property
    def largest_stable_learning_rate(self) -> float:
        """The highest rate up to which no run diverged; nan where one diverged at the lowest."""
        rates = np.unique(self.learning_rates)
        is_stable = [not self.diverged[self.learning_rates == rate].any() for rate in rates]
        stable = rates[: is_stable.index(False) if False in is_stable else len(is_stable)]
        return float(stable[-1]) if len(stable) else float("nan")

    @property
    def sensitivity(self) -> float:
        """The mean over the rates of min(loss, start) − lowest loss: 0 where any rate will do.

        Sweep rates at equal ratios, and the same ones to compare two models.

        Source: Wortsman et al. 2023, Small-scale proxies for large-scale Transformer training instabilities,
        arXiv:2309.14322, section 2.2.
        """
        means, start = self.scores.mean[self._best_by_rate()[1]], self._sign * self.start
        return float(np.mean(np.fmin(means, start) - means.min()))

    def __repr__(self) -> str:
        count, seeds, steps = self.losses.shape
        return f"SweepResult({count} settings, {seeds} seeds, {steps} steps: {self.verdict})"

    def rows(self) -> list[dict[str, Any]]:
        """Returns a dict for each setting, for `pandas.DataFrame` and loggers; an infinite number means diverged."""
        varied = {name: x for name, x in self.settings.items() if x.ndim == 1 and name != "learning_rate"}
        name = self.metric or "loss"
        return [
            {
                "learning_rate": float(self.learning_rates[i]),
                **{name: x[i].item() for name, x in varied.items()},
                name: float(self.mean[i]),
                f"{name}_spread": float(self.spread[i]),
                "diverged": int(self.diverged[i].sum()),
                "seeds": self.diverged.shape[1],
            }
            for i in range(len(self.learning_rates))
        ]

    def save(self, path: str | PathLike[str]) -> None:
        """Writes the numbers to a `.npz` file, without adding a suffix to `path`. Trained models are saved with
        `Run.save`."""
        words = {"settings": list(self.settings), "modes": self.modes, "failure": self.failure, "notes": self.notes}
        arrays = {f"settings/{name}": x for name, x in self.settings.items()}
        arrays |= {f"metrics/{name}": x for name, x in self.metrics.items()}
        arrays |= {name: getattr(self, name) for name in _ARRAYS}
        file = io.BytesIO()
        np.savez_compressed(file, allow_pickle=False, words=json.dumps(words), **arrays)
        write_file(path, file.getvalue())

    @classmethod
    def load(cls, path: str | PathLike[str]) -> "SweepResult":
        """Reads what `save` wrote."""
        with np.load(path, allow_pickle=False) as file:
            words = json.loads(str(file["words"]))
            return cls(
                settings={name: file[f"settings/{name}"] for name in words["settings"]},
                metrics={name: file[f"metrics/{name}"] for name in words["modes"]},
                modes=words["modes"],
                failure=words["failure"],
                notes=tuple(words["notes"]),
                **{name: file[name] for name in _ARRAYS},
            )

    def plot(self, ax: Any = None) -> Any:
        """Plots loss over rate with matplotlib (extra: plot): a dot for each run, mean and spread over the seeds, the
        rates at which runs diverged shaded, the best rate marked. Returns the axes."""
        from lrjax.report.plots import plot_losses

        return plot_losses(self, ax)

    def plot_curves(self, ax: Any = None) -> Any:
        """Plots the smoothed loss of every setting over the steps, coloured by rate. Returns the axes."""
        from lrjax.report.plots import plot_curves

        return plot_curves(self, ax)

    def _repr_html_(self) -> str:
        from lrjax.report.plots import as_html

        return as_html(self.rows(), self.recommended, self.verdict, self.notes)


_ARRAYS = ("learning_rates", "losses", "evaluated_at", "diverged", "control", "start_metric", "start_error")
