"""Losses of single tokens and of single examples."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from palm_jax.peft.trainable import join
from palm_jax.training.losses import features_of

_CHUNK = 64  # positions whose logits are in memory at a time

Batch = Mapping[str, np.ndarray]


@functools.partial(jax.jit, static_argnums=0)
def token_losses(model: Any, params: Any, batch: Mapping[str, Any]) -> jax.Array:
    """Return −log p of every target in nats, float32 [B, L], whatever its weight.

    Args:
      model: language model.
      params: its parameters.
      batch: features [B, L] as the loss reads them.
    """
    h_BLD, targets_BL = features_of(model, params, dict(batch)), batch['decoder_target_tokens']
    B, L, D = h_BLD.shape
    size = min(_CHUNK, L)
    h_BLD = jnp.pad(h_BLD, [(0, 0), (0, -L % size), (0, 0)])
    targets_BL = jnp.pad(targets_BL, [(0, 0), (0, -L % size)])

    def of_chunk(chunk):
        h_BlD, targets_Bl = chunk
        logits_BlV = model.apply({'params': params}, h_BlD, method=lambda palm, h: palm.embed.attend(h))
        return -jnp.take_along_axis(jax.nn.log_softmax(logits_BlV), targets_Bl[..., None], axis=2)[..., 0]

    chunks = h_BLD.reshape(B, -1, size, D).swapaxes(0, 1), targets_BL.reshape(B, -1, size).swapaxes(0, 1)
    return jax.lax.map(of_chunk, chunks).swapaxes(0, 1).reshape(B, -1)[:, :L]


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def example_losses(loss: Any, model: Any, with_gradients: bool, trained: Any, frozen: Any, batch: Batch) -> Any:
    """Return the mean loss of each example, and the norm of its gradient with respect to the trained parameters.

    Examples are taken one after the other, so that memory is that of one gradient. The norm is GraNd's score (Paul et
    al. 2021, arXiv 2107.07075); it is 0 if it was not asked for.

    Args:
      loss: loss of the run, which returns a weighted sum and metrics.
      model: model with its methods attached.
      with_gradients: whether to compute the gradients.
      trained: parameters that the run trains.
      frozen: the other ones.
      batch: features [B, ...].
    """

    def mean_loss(part, row):
        total, metrics = loss(model, join(part, frozen), {name: values[None] for name, values in row.items()})
        count = jnp.maximum(metrics['loss'].count, 1e-9)
        return total / count

    def of_row(row):
        if not with_gradients:
            return mean_loss(trained, row), jnp.zeros(())
        value, gradient = jax.value_and_grad(mean_loss)(trained, row)
        return value, jnp.sqrt(sum(jnp.sum(jnp.square(g.astype(jnp.float32))) for g in jax.tree.leaves(gradient)))

    return jax.lax.map(of_row, dict(batch))


def slices(features: Batch, size: int) -> Iterator[tuple[int, dict[str, np.ndarray]]]:
    """Yield (number of the first row, batch) of features [E, ...]; the last batch repeats its last row.

    Args:
      features: features of all examples.
      size: rows per batch.
    """
    count = len(next(iter(features.values())))
    for first in range(0, count, size):
        rows = np.minimum(np.arange(first, first + size), count - 1)
        yield first, {name: values[rows] for name, values in features.items()}
