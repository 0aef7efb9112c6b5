"""What a reporter takes and makes: a model to measure and its measurements, a finished run and its report."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from jax.sharding import Mesh

from palm_jax.models.model import Model
from palm_jax.training.metrics import Metrics
from palm_jax.training.plan import Plan


@dataclasses.dataclass(frozen=True)
class Scored:
    """The scores of a head for the held-out part, and its labels.

    Attributes:
      scores: float32 [...] of every example, in the order of the data; those along a text may be cut to its length.
      labels: encoded label [...] of every example.
    """

    scores: Sequence[np.ndarray]
    labels: Sequence[np.ndarray]


@dataclasses.dataclass(frozen=True)
class EvaluationInput:
    """A model, with what is needed to measure it on held-out data.

    Attributes:
      model: the model, with its fine-tuning methods.
      params: all parameters, on the mesh.
      data: the data, with its held-out part.
      mesh: devices that hold the parameters.
      batch_size: sequences per batch.
      sequences_seen: training sequences that the model has learned from; baselines get as many.
      evaluate: returns the metrics of the loss on the whole held-out part; calls a function that it is given with every
        batch on the host.
      score: returns the scores of the head for the whole held-out part; `evaluate` need not read it again then.
    """

    model: Model
    params: Any
    data: Any
    mesh: Mesh
    batch_size: int
    sequences_seen: int
    evaluate: Callable[..., Metrics]
    score: Callable[[], Scored]


@dataclasses.dataclass(frozen=True)
class TrainingResult:
    """A finished run: the model it reports, and what was trained at what cost.

    Attributes:
      inputs: the model, with the held-out data to measure it on.
      plan: parameters, FLOPs and memory of the run.
      step: number of steps that the model was trained for.
      seconds: time since the start of the command.
      checkpoint: directory of the model's checkpoint.
    """

    inputs: EvaluationInput
    plan: Plan
    step: int
    seconds: float
    checkpoint: Path


class Measured(Protocol):
    """What a reporter found out about a model; needs no run.

    Attributes:
      metrics: values by name; `loss` is one of them.
      intervals: 95% confidence intervals, (low, high) by the metric's name.
      predictions: one row per held-out example; None where the reporter makes none.
      details: further results, of which `baselines` are printed by `palm-jax eval`.
    """

    @property
    def metrics(self) -> Mapping[str, float]: ...

    @property
    def intervals(self) -> Mapping[str, tuple[float, float]]: ...

    @property
    def predictions(self) -> Sequence[Mapping[str, Any]] | None: ...

    @property
    def details(self) -> Mapping[str, Any]: ...


class Report(Protocol):
    """What a reporter makes of a finished run."""

    def values(self) -> dict[str, float]:
        """Metrics by name, for the writers."""

    def write(self, model_dir: Path) -> None:
        """Write files to MODEL_DIR."""

    def text(self, model_dir: Path, continue_command: str) -> str:
        """Return what the terminal shows.

        Args:
          model_dir: directory of the run.
          continue_command: command that trains the model further; empty if none does.
        """


class Reporter(Protocol):
    """Measures a model on held-out data, and reports a finished run."""

    def metric_names(self, data: Any) -> Collection[str] | None:
        """Return the names of the metrics that `measure` adds to those of the loss; None if they are not known."""

    def measure(self, inputs: EvaluationInput) -> Measured:
        """Measure a model; needs no run."""

    def __call__(self, result: TrainingResult) -> Report:
        """Measure the model of a finished run, and report both."""
