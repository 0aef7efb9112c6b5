"""The scores of a head and the metrics of its loss, from one pass through the model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax

from palm_jax.models.model import Model
from palm_jax.training.head_losses import scores_of
from palm_jax.training.metrics import Metrics


class _Recorder:
    """A model that keeps the scores that a loss computes with it."""

    def __init__(self, model: Model):
        self._model, self.scores = model, None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def apply(self, *arguments: Any, method: Any = None, **settings: Any) -> Any:
        """Call the model."""
        result = self._model.apply(*arguments, method=method, **settings)
        if method == 'scores':
            self.scores = result
        return result


def metrics_and_scores(
    loss: Callable[..., tuple[jax.Array, Metrics]], model: Model, params: Any, batch: dict[str, jax.Array]
) -> tuple[Metrics, jax.Array]:
    """Return the metrics of a loss on a batch, and the scores that it was computed from.

    Args:
      loss: loss of a head, see `head_losses`. One that calls `scores` of the model is computed from the same scores;
        beside another one, the model is run again for them.
      model: module with a head.
      params: its parameters.
      batch: features [B, L], `labels` and `label_weights`.
    """
    recorder = _Recorder(model)
    metrics = loss(recorder, params, batch)[1]
    return metrics, scores_of(model, params, batch) if recorder.scores is None else recorder.scores
