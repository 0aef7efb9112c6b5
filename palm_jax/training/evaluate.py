"""Loss on held-out text."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from jax.sharding import Mesh
from tqdm import tqdm

from palm_jax.partitioning import shard_batch
from palm_jax.training import metrics as metrics_lib
from palm_jax.training.metrics import Metrics
from palm_jax.training.state import TrainState


def evaluate(
    eval_step: Callable[[Any, Any], Metrics], state: TrainState, batches: Iterable[dict[str, np.ndarray]], mesh: Mesh
) -> Metrics:
    """Sums the metrics over all batches."""
    progress = tqdm(batches, desc='evaluating', unit=' batches', leave=False)
    return metrics_lib.total([eval_step(state, shard_batch(batch, mesh)) for batch in progress])


def bits_per_byte(metrics: Metrics, num_bytes: int) -> float:
    """Total nats of a text's tokens (end marks included) over its UTF-8 bytes, in bits."""
    return float(metrics['loss'].total) / math.log(2) / num_bytes
