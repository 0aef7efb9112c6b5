"""Token cross-entropy with z-loss over a large vocabulary, in chunks of the sequence."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp

from palm_jax.errors import UserError
from palm_jax.models.layers import constrain, num_parts
from palm_jax.models.matmuls import product, transposed_product
from palm_jax.models.palm import PaLM
from palm_jax.training.metrics import Metrics, Ratio


@dataclasses.dataclass(frozen=True)
class LanguageModelLoss:
    """−log p(target) + z_loss · log² Z, summed over the targets by their weights.

    The objective is in the batch: causal LM, prefix LM and the denoisers differ only in
    their tokens, in `decoder_loss_weights` and in `decoder_causal_attention`.

    Attributes:
      z_loss: weight of log² Z, the squared log of the softmax normaliser (paper: 1e-4).
      chunk_length: positions whose logits exist at one time; 0 is all of them. The largest
        array of the loss is [B, chunk_length, V] instead of [B, L, V].
      skip_unweighted: positions of weight 0 get no logits: a row's others come first, and chunks that are
        left without any are not computed. It pays where the loss counts a part of the positions (text to
        text, denoising), with chunks shorter than the rows.
    """

    z_loss: float = 1e-4
    chunk_length: int = 128
    skip_unweighted: bool = False

    def __post_init__(self) -> None:
        for name in ('z_loss', 'chunk_length'):
            if not 0 <= getattr(self, name) < float('inf'):
                raise UserError(f'LanguageModelLoss.{name} is {getattr(self, name)}; it must not be negative.')

    def __call__(
        self, model: PaLM, params: Any, batch: dict[str, jax.Array], dropout_rng: jax.Array | None = None
    ) -> tuple[jax.Array, Metrics]:
        """The loss of one batch.

        Args:
          model: its `features` are applied.
          params: its parameters.
          batch: seqio's decoder features, int32 [B, L]: `decoder_input_tokens`,
            `decoder_target_tokens`, `decoder_loss_weights` and, where the objective has
            them, `decoder_positions`, `decoder_segment_ids`, `decoder_causal_attention`.
          dropout_rng: applies dropout when given.

        Returns:
          The *sum* over targets, float32, and metrics: `loss` (cross-entropy in nats per
          token), `z_loss`, `accuracy`. Divide the sum by `loss.count` for the mean.
        """
        return self.of_features(features_of(model, params, batch, dropout_rng), model, params, batch)

    def of_features(
        self, h_BLD: jax.Array, model: PaLM, params: Any, batch: dict[str, jax.Array]
    ) -> tuple[jax.Array, Metrics]:
        """As `__call__`, from features [B, L, D] that are there already."""
        weights_BL = batch['decoder_loss_weights'].astype(jnp.float32)
        loss, (cross_entropy, z_loss, correct) = softmax_cross_entropy(
            h_BLD,
            constrain(params['embed']['embedding'].astype(h_BLD.dtype), 'vocab', None),  # gathered once
            batch['decoder_target_tokens'],
            weights_BL,
            model.arch.output_scale,
            self.z_loss,
            self.chunk_length,
            self.skip_unweighted,
        )
        count = weights_BL.sum()
        return loss, {
            'loss': Ratio(cross_entropy, count),
            'z_loss': Ratio(z_loss, count),
            'accuracy': Ratio(correct, count),
        }


def features_of(
    model: PaLM, params: Any, batch: dict[str, jax.Array], dropout_rng: jax.Array | None = None
) -> jax.Array:
    """The model's features of a batch, [B, L, D]; arguments as of `LanguageModelLoss`."""
    return model.apply(
        {'params': params},
        batch['decoder_input_tokens'],
        batch.get('decoder_positions'),
        batch.get('decoder_segment_ids'),
        batch.get('decoder_causal_attention'),
        deterministic=dropout_rng is None,
        rngs=None if dropout_rng is None else {'dropout': dropout_rng},
        method='features',
    )


@functools.partial(jax.custom_vjp, nondiff_argnums=(4, 5, 6, 7))
def softmax_cross_entropy(
    h_BLD: jax.Array,
    embedding_VD: jax.Array,
    targets_BL: jax.Array,
    weights_BL: jax.Array,
    scale: float,
    z_loss: float = 0.0,
    chunk_length: int = 0,
    skip_unweighted: bool = False,
) -> tuple[jax.Array, tuple[jax.Array, jax.Array, jax.Array]]:
    """Cross-entropy of logits = scale · h·Eᵀ without ever holding [B, L, V].

    Loss and gradient of a chunk are computed together, while its logits exist: with
    p = softmax(logits) the gradient of w·(log Z − logit_t + z·log² Z) by the logits is
    w·((1 + 2·z·log Z)·p − onehot(t)), so nothing is recomputed in the backward pass.

    Args:
      h_BLD: features, any float dtype; matmuls run in it and accumulate in float32.
      embedding_VD: output matrix in the same dtype.
      targets_BL: int32 in [0, V).
      weights_BL: float32; no gradient flows to them.
      scale: multiplies the logits.
      z_loss: weight z of log² Z.
      chunk_length: positions a chunk; 0 or ≥ L is one chunk.
      skip_unweighted: chunks of positions that count come first, those of others are left out.

    Returns:
      The weighted sum of the loss, and (for reading only, without a gradient) the weighted
      sums of the cross-entropy, of z·log² Z and of correct predictions; all float32.
    """
    xs = (h_BLD, targets_BL, weights_BL)
    sums, _ = _scan_chunks(_chunk_sums, xs, embedding_VD, scale, z_loss, chunk_length, skip_unweighted)
    return sums[0] + sums[1], sums


def _forward(h_BLD, embedding_VD, targets_BL, weights_BL, scale, z_loss, chunk_length, skip_unweighted):
    wanted = embedding_VD.perturbed  # a frozen embedding gets no gradient, and a third of the work is saved
    h_BLD, embedding_VD, targets_BL, weights_BL = (x.value for x in (h_BLD, embedding_VD, targets_BL, weights_BL))

    def step(h, targets, weights, embedding, scale, z_loss):
        sums, logits, log_z, is_target = _logits_and_sums(h, targets, weights, embedding, scale, z_loss)
        p = jnp.exp(logits - log_z[..., None])
        d_logits = (1 + 2 * z_loss * log_z)[..., None] * p - is_target
        d_logits = (d_logits * (weights * scale)[..., None]).astype(h.dtype)
        dh = product(d_logits, embedding)
        return (sums, _by_device(h, d_logits) if wanted else None), dh.astype(h.dtype)

    xs = (h_BLD, targets_BL, weights_BL)
    (sums, de_NDV), dh = _scan_chunks(step, xs, embedding_VD, scale, z_loss, chunk_length, skip_unweighted)
    return (sums[0] + sums[1], sums), (dh, de_NDV.sum(0).T.astype(embedding_VD.dtype) if wanted else None)


def _backward(scale, z_loss, chunk_length, skip_unweighted, residuals, cotangents):
    dh, de = residuals
    g, _ = cotangents
    return (dh * g).astype(dh.dtype), None if de is None else (de * g).astype(de.dtype), None, None


softmax_cross_entropy.defvjp(_forward, _backward, symbolic_zeros=True)


def _by_device(h_BlD: jax.Array, d_logits_BlV: jax.Array) -> jax.Array:
    """hᵀ·d, [N, D, V]: a sum over the rows of each of the N parts that the batch is split into.

    So devices add up the chunks of their own rows, and tell each other the sum once instead of every chunk's.
    """
    parts = num_parts('act_batch')
    parts = parts if len(h_BlD) % parts == 0 else 1
    h_NXD, d_NXV = (x.reshape(parts, -1, x.shape[-1]) for x in (h_BlD, d_logits_BlV))
    return constrain(transposed_product(h_NXD, d_NXV, batched=True), 'act_batch', None, 'act_vocab')


def _logits_and_sums(h, targets, weights, embedding, scale, z_loss):
    logits = scale * product(h, embedding, contract=1)
    logits = constrain(logits, 'act_batch', 'act_length', 'act_vocab')
    log_z = jax.nn.logsumexp(logits, axis=-1)
    ids = jnp.arange(logits.shape[-1])
    is_target = targets[..., None] == ids
    nll = log_z - jnp.sum(jnp.where(is_target, logits, 0.0), axis=-1)
    # The argmax, from reductions of one array each: those are vector code on a CPU, and jnp.argmax is not.
    is_largest = logits >= logits.max(axis=-1, keepdims=True)
    correct = jnp.where(is_largest, ids, len(ids)).min(axis=-1) == targets
    sums = tuple(jnp.sum(weights * value) for value in (nll, z_loss * jnp.square(log_z), correct))
    return sums, logits, log_z, is_target


def _chunk_sums(*args):
    return _logits_and_sums(*args)[0], None


def _scan_chunks(step, xs, embedding, scale, z_loss, chunk_length, skip_unweighted):
    """Adds up step's first result over chunks of axis 1 and concatenates its second."""
    length = xs[0].shape[1]
    if not 0 < chunk_length < length:
        return step(*xs, embedding, scale, z_loss)
    if skip_unweighted:
        weights_BL = xs[2]
        order_BL = jnp.argsort(weights_BL == 0, axis=1, stable=True)
        xs = jax.tree.map(lambda x: _reordered(x, order_BL), xs)
    num_chunks = -(-length // chunk_length)
    padding = num_chunks * chunk_length - length

    def split(x):
        x = jnp.pad(x, [(0, 0), (0, padding)] + [(0, 0)] * (x.ndim - 2))  # weight 0
        return jnp.moveaxis(x.reshape(x.shape[0], num_chunks, chunk_length, *x.shape[2:]), 1, 0)

    def of_chunk(h, targets, weights):
        return step(h, targets, weights, embedding, scale, z_loss)

    chunks = jax.tree.map(split, xs)
    shapes = jax.eval_shape(of_chunk, *jax.tree.map(lambda x: x[0], chunks))
    zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)

    def body(carry, chunk):
        if skip_unweighted:
            sums, y = jax.lax.cond(jnp.any(chunk[2] != 0), of_chunk, lambda *_: zeros, *chunk)
        else:
            sums, y = of_chunk(*chunk)
        return jax.tree.map(jnp.add, carry, sums), y

    sums, ys = jax.lax.scan(body, zeros[0], chunks)
    if ys is not None:
        ys = jnp.moveaxis(ys, 0, 1).reshape(ys.shape[1], -1, *ys.shape[3:])[:, :length]
        ys = _reordered(ys, jnp.argsort(order_BL, axis=1)) if skip_unweighted else ys
    return sums, ys


def _reordered(x, order_BL):
    return jnp.take_along_axis(x, order_BL.reshape(*order_BL.shape, *[1] * (x.ndim - 2)), axis=1)
