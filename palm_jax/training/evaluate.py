"""Evaluation on the held-out part of the data, in one pass."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from palm_jax.partitioning import shard_batch
from palm_jax.training import metrics as metrics_lib
from palm_jax.training.batch_sizes import BatchSizes
from palm_jax.training.interfaces import Data
from palm_jax.training.metrics import Metrics
from palm_jax.training.progress import track
from palm_jax.training.result import EvaluationInput, Scored
from palm_jax.training.state import TrainState

HostBatch = Mapping[str, np.ndarray]


class Evaluator:
    """Reads the held-out part when it is first needed, and remembers the metrics.

    Args:
      data: the data.
      batch_size: sequences per batch.
      mesh: devices over whose `data` axis a batch is split.
      eval_step: jitted; metrics of a batch on the mesh.
      score_step: jitted; metrics of a batch, and the scores of the head, see `head_scores`.
      num_batches: number of batches to read, from the beginning; None reads all.

    Attributes:
      of_batches: metrics of each batch, once they are computed.
    """

    def __init__(
        self,
        data: Data,
        batch_size: int,
        mesh: Mesh,
        eval_step: Callable[[dict[str, Any]], Metrics],
        score_step: Callable[[dict[str, Any]], tuple[Metrics, jax.Array]],
        num_batches: int | None = None,
    ):
        self._data, self._batch_size, self._mesh = data, batch_size, mesh
        self._eval_step, self._score_step, self._num_batches = eval_step, score_step, num_batches
        self.of_batches: list[Metrics] = []

    def evaluate(self, see: Callable[[HostBatch], None] | None = None) -> Metrics:
        """Return the sums of the metrics of all batches.

        Args:
          see: called with every batch on the host; None reads the batches only if the metrics are not known yet.
        """
        if see is not None or not self.of_batches:
            self._read(self._eval_step, lambda _, batch, __: see(batch) if see else None, lambda metrics: metrics)
        return metrics_lib.total(self.of_batches)

    def score(self) -> Scored:
        """Return the scores of the head for every example, with the labels; the metrics are known afterwards."""
        count = self._data.num_validation_sequences
        scores: list[Any] = [None] * count
        labels: list[Any] = [None] * count

        def see(numbers: np.ndarray, batch: HostBatch, result: tuple[Metrics, jax.Array]) -> None:
            for number, *row in zip(numbers, np.asarray(result[1]), batch['labels'], strict=False):  # filled up
                scores[number], labels[number] = row

        self._read(self._score_step, see, lambda result: result[0])
        return Scored(scores, labels)

    def _read(self, step: Callable[..., Any], see: Callable[..., None], metrics_of: Callable[[Any], Metrics]) -> None:
        """Compute a step for every batch; the next one is sent to the devices before the last one is waited for."""
        total = -(-self._data.num_validation_sequences // self._batch_size)
        total = total if self._num_batches is None else min(total, self._num_batches)
        self.of_batches.clear()
        before: list[tuple[np.ndarray, HostBatch, Any]] = []

        def take(numbers: np.ndarray, batch: HostBatch, result: Any) -> None:
            result = jax.device_get(result)
            see(numbers, batch, result)
            self.of_batches.append(metrics_of(result))

        for numbers, batch in track(self._batches(), total, 'evaluating'):
            before.append((numbers, batch, step(shard_batch(batch, self._mesh))))
            if len(before) > 1:
                take(*before.pop(0))
        for read in before:
            take(*read)

    def _batches(self) -> Iterator[tuple[np.ndarray, HostBatch]]:
        """Yield the numbers of the examples and their batch: all by length, or the first ones in order."""
        if self._num_batches is None:
            yield from self._data.validation_by_length(self._batch_size)
        else:
            for number, batch in enumerate(self._data.validation(self._batch_size)):
                if number == self._num_batches:
                    return
                yield np.arange(self._batch_size) + number * self._batch_size, batch


@dataclasses.dataclass(frozen=True)
class HeldOut:
    """The held-out part of a run's data, and how a state of the run is evaluated on it.

    Attributes:
      eval_step: jitted; metrics of a state and a batch, see `step.eval_step`.
      score_step: jitted; metrics and scores of a head, see `head_scores`.
      model: the adapted model.
      data: the run's data.
      mesh: devices of the run.
      batch_sizes: sequences per step; a batch is as large as in the last step taken.
    """

    eval_step: Callable[[TrainState, dict[str, Any]], Metrics]
    score_step: Callable[[TrainState, dict[str, Any]], tuple[Metrics, jax.Array]]
    model: Any
    data: Data
    mesh: Mesh
    batch_sizes: BatchSizes

    def metric_names(self, state: TrainState) -> set[str]:
        """Names of the metrics of the loss; nothing is computed."""
        batch = next(iter(self.data.validation(self.batch_sizes.at(0))))
        return set(jax.eval_shape(self.eval_step, state, batch))

    def metrics(self, state: TrainState, step: int, num_batches: int | None = None) -> Metrics:
        """Sum the metrics of the first batches, or of all for None, after `step` steps."""
        return self._evaluator(state, step, num_batches).evaluate()

    def inputs(self, state: TrainState, step: int) -> EvaluationInput:
        """What a reporter measures: the model after `step` steps, with the data."""
        evaluator = self._evaluator(state, step)
        return EvaluationInput(
            model=self.model,
            params=state.all_params,
            data=self.data,
            mesh=self.mesh,
            batch_size=self.batch_sizes.at(step - 1),
            sequences_seen=self.batch_sizes.before(step),
            evaluate=evaluator.evaluate,
            score=evaluator.score,
        )

    def _evaluator(self, state: TrainState, step: int, num_batches: int | None = None) -> Evaluator:
        return Evaluator(
            self.data,
            self.batch_sizes.at(step - 1),
            self.mesh,
            lambda batch: self.eval_step(state, batch),
            lambda batch: self.score_step(state, batch),
            num_batches,
        )
