"""Token cross-entropy with z-loss over a large vocabulary, in chunks of the sequence.

A CPU and a TPU take short chunks. A GPU takes the largest whose logits fit beside the model: every product then has as
many rows as its tensor cores need, and mostly there is one chunk and no loop.
"""

from __future__ import annotations

import functools
from typing import Literal

import jax
import jax.numpy as jnp
from jax.lax import platform_dependent

from palm_jax.models.kernels.gpu import memory_bytes, on_gpus
from palm_jax.models.kernels.matmul import product, transposed_product
from palm_jax.models.kernels.memory_order import row_major
from palm_jax.models.saturation import LARGEST_FACTOR, limited, square
from palm_jax.models.sharding import constrain, num_parts

ChunkLength = int | Literal['auto']
_SHARE_OF_MEMORY = 1 / 16  # of a GPU's, for the float32 logits of a chunk
_ROWS_WITH_SKIPS = 2048  # rows of a GPU's chunk that may be skipped


@functools.partial(jax.custom_vjp, nondiff_argnums=(4, 5, 6, 7))
def softmax_cross_entropy(
    h_BLD: jax.Array,
    embedding_VD: jax.Array,
    targets_BL: jax.Array,
    weights_BL: jax.Array,
    scale: float,
    z_loss: float = 0.0,
    chunk_length: ChunkLength = 0,
    skip_unweighted: bool = False,
) -> tuple[jax.Array, tuple[jax.Array, jax.Array, jax.Array]]:
    """Cross-entropy of logits = scale · h·Eᵀ, computed without an array [B, L, V].

    The loss of a chunk and its gradient are computed together, while the chunk's logits exist: with p = softmax(logits)
    the gradient of w·(log Z − logit_t + z·log² Z) with respect to the logits is w·((1 + 2·z·log Z)·p − onehot(t)), so
    the backward pass recomputes nothing. One implementation serves all platforms.

    Args:
      h_BLD: features of any float dtype, in which matmuls run; they accumulate in float32.
      embedding_VD: output matrix in the same dtype.
      targets_BL: int32 token ids in [0, V).
      weights_BL: float32 weights of the targets, without a gradient.
      scale: factor of the logits.
      z_loss: weight z of log² Z.
      chunk_length: positions in a chunk; 0 or ≥ L is one chunk. `auto` is 128, or 32 with `skip_unweighted`; on a GPU
        it is the most positions whose logits take a sixteenth of the memory, or 2,048 rows with `skip_unweighted`.
      skip_unweighted: move the weighted positions of every row to its front and skip chunks without any.

    Returns:
      The weighted sum of the loss and, without a gradient, the weighted sums of the cross-entropy, of z·log² Z and of
      correct predictions; all float32 scalars.
    """
    xs = (h_BLD, targets_BL, weights_BL)
    sums, _ = scan_chunks(_chunk_sums, xs, embedding_VD, scale, z_loss, chunk_length, skip_unweighted)
    return sums[0] + sums[1], sums


def reference_softmax_cross_entropy(
    h_BLD: jax.Array,
    embedding_VD: jax.Array,
    targets_BL: jax.Array,
    weights_BL: jax.Array,
    scale: float,
    z_loss: float = 0.0,
) -> tuple[jax.Array, tuple[jax.Array, jax.Array, jax.Array]]:
    """`softmax_cross_entropy` as the formula, with all logits at once."""
    logits_BLV = scale * jnp.einsum('BLD,VD->BLV', h_BLD, embedding_VD, preferred_element_type=jnp.float32)
    log_z_BL = jax.nn.logsumexp(logits_BLV, axis=-1)
    nll_BL = log_z_BL - jnp.take_along_axis(logits_BLV, targets_BL[..., None], axis=-1)[..., 0]
    correct_BL = logits_BLV.argmax(axis=-1) == targets_BL
    terms = (nll_BL, z_loss * jnp.square(log_z_BL), correct_BL)
    cross_entropy, penalty, correct = (jnp.sum(weights_BL * x_BL) for x_BL in terms)
    return cross_entropy + penalty, (cross_entropy, penalty, correct)


def _forward(h_BLD, embedding_VD, targets_BL, weights_BL, scale, z_loss, chunk_length, skip_unweighted):
    wanted = embedding_VD.perturbed  # a frozen embedding needs no gradient, which saves a third of the work
    h_BLD, embedding_VD, targets_BL, weights_BL = (x.value for x in (h_BLD, embedding_VD, targets_BL, weights_BL))

    def step(h, targets, weights, embedding, scale, z_loss):
        sums, logits, log_z, is_target = _logits_and_sums(h, targets, weights, embedding, scale, z_loss)
        # At most a rounding above 0, which of scores near the largest float32 is large.
        p = jnp.exp(jnp.minimum(logits - log_z[..., None], 1.0))
        d_logits = (1 + 2 * z_loss * limited(log_z, LARGEST_FACTOR))[..., None] * p - is_target
        d_logits = (d_logits * (weights * scale)[..., None]).astype(h.dtype)
        dh = product(d_logits, embedding, dtype=h.dtype)
        return (sums, _by_device(h, d_logits) if wanted else None), dh

    xs = (h_BLD, targets_BL, weights_BL)
    (sums, de_NDV), dh = scan_chunks(step, xs, embedding_VD, scale, z_loss, chunk_length, skip_unweighted)
    return (sums[0] + sums[1], sums), (dh, _over_devices(de_NDV).T.astype(embedding_VD.dtype) if wanted else None)


def _backward(scale, z_loss, chunk_length, skip_unweighted, residuals, cotangents):
    dh, de = residuals
    g, _ = cotangents
    return (dh * g).astype(dh.dtype), None if de is None else (de * g).astype(de.dtype), None, None


softmax_cross_entropy.defvjp(_forward, _backward, symbolic_zeros=True)


def _by_device(h_BlD: jax.Array, d_logits_BlV: jax.Array) -> jax.Array:
    """hᵀ·d, [N, D, V]: one sum over rows for each of the N parts that the batch is split into.

    Devices add up the chunks of their own rows and exchange the sum once, instead of once per chunk.
    """
    parts = num_parts('act_batch')
    parts = parts if len(h_BlD) % parts == 0 else 1
    h_NXD, d_NXV = (x.reshape(parts, -1, x.shape[-1]) for x in (h_BlD, d_logits_BlV))
    return constrain(transposed_product(h_NXD, d_NXV, batched=True), 'act_batch', None, 'act_vocab')


def _over_devices(de_NDV: jax.Array) -> jax.Array:
    """Σ over N, [D, V], of which a device receives the part that it holds of the embedding.

    Row-major where D is split: a TPU's compiler, which would take the order of Eᵀ, cannot cut a sum within the 128
    neighbors of a tile, and would add up the whole matrix on every device.
    """
    de_DV = de_NDV.sum(0)
    return row_major(de_DV) if num_parts('embed') > 1 else de_DV


def _logits_and_sums(h, targets, weights, embedding, scale, z_loss):
    logits = scale * product(h, embedding, contract=1)
    logits = constrain(logits, 'act_batch', 'act_length', 'act_vocab')
    log_z = jax.nn.logsumexp(logits, axis=-1)
    ids = jnp.arange(logits.shape[-1])
    is_target = targets[..., None] == ids
    nll = limited(log_z - jnp.sum(jnp.where(is_target, logits, 0.0), axis=-1))
    # The argmax as two reductions of one array each: XLA vectorizes those on a CPU, but not jnp.argmax.
    is_largest = logits >= logits.max(axis=-1, keepdims=True)
    correct = jnp.where(is_largest, ids, len(ids)).min(axis=-1) == targets
    sums = tuple(jnp.sum(weights * value) for value in (nll, z_loss * square(log_z), correct))
    return sums, logits, log_z, is_target


def _chunk_sums(*args):
    return _logits_and_sums(*args)[0], None


def scan_chunks(step, xs, embedding, scale, z_loss, chunk_length, skip_unweighted):
    """Sum the first result of `step` over chunks of axis 1, and put the second together."""

    def scan(xs, embedding, length):
        of_chunk = lambda *chunk: step(*chunk, embedding, scale, z_loss)  # noqa: E731
        return _scan(of_chunk, xs, length, skip_unweighted)

    if chunk_length != 'auto':
        return scan(xs, embedding, chunk_length)
    short = functools.partial(scan, length=32 if skip_unweighted else 128)
    long = functools.partial(scan, length=_gpu_chunk_length(xs[0].shape, len(embedding), skip_unweighted))
    return platform_dependent(xs, embedding, default=short, **on_gpus(long))


def _gpu_chunk_length(shape: tuple[int, ...], vocabulary: int, skip_unweighted: bool) -> int:
    """Positions of a chunk on a GPU: the largest divisor of L, if there is one that is not much smaller than fits."""
    batch, length = -(-shape[0] // num_parts('act_batch')), shape[1]
    rows = int(memory_bytes() * _SHARE_OF_MEMORY) // (4 * -(-vocabulary // num_parts('act_vocab')))
    most = max(1, min(rows, _ROWS_WITH_SKIPS if skip_unweighted else rows) // batch)
    if most >= length:
        return length
    divisor = next(n for n in range(most, 0, -1) if length % n == 0)
    return divisor if 2 * divisor > most else most


def _scan(of_chunk, xs, chunk_length, skip_unweighted):
    length = xs[0].shape[1]
    if not 0 < chunk_length < length:
        return of_chunk(*xs)
    if skip_unweighted:
        weights_BL = xs[2]
        order_BL = jnp.argsort(weights_BL == 0, axis=1, stable=True)
        xs = jax.tree.map(lambda x: _reordered(x, order_BL), xs)
    num_chunks = -(-length // chunk_length)
    if padding := num_chunks * chunk_length - length:  # of weight 0
        xs = jax.tree.map(lambda x: jnp.pad(x, [(0, 0), (0, padding)] + [(0, 0)] * (x.ndim - 2)), xs)

    def chunk(number):
        return [jax.lax.dynamic_slice_in_dim(x, number * chunk_length, chunk_length, axis=1) for x in xs]

    shapes = jax.eval_shape(of_chunk, *chunk(0))
    zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)

    def body(number, carry):
        sums, ys = carry
        inputs = chunk(number)
        if skip_unweighted:
            new, y = jax.lax.cond(jnp.any(inputs[2] != 0), of_chunk, lambda *_: zeros, *inputs)
        else:
            new, y = of_chunk(*inputs)
        # Written in place: chunks that are stacked, as a scan would, have to be copied to be put together.
        put = lambda ys, y: jax.lax.dynamic_update_slice_in_dim(ys, y, number * chunk_length, axis=1)  # noqa: E731
        return jax.tree.map(jnp.add, sums, new), jax.tree.map(put, ys, y)

    everything = jax.tree.map(lambda s: jnp.zeros((s.shape[0], length + padding, *s.shape[2:]), s.dtype), shapes[1])
    sums, ys = jax.lax.fori_loop(0, num_chunks, body, (zeros[0], everything))
    if ys is not None:
        ys = ys[:, :length]
        ys = _reordered(ys, jnp.argsort(order_BL, axis=1)) if skip_unweighted else ys
    return sums, ys


def _reordered(x, order_BL):
    return jnp.take_along_axis(x, order_BL.reshape(*order_BL.shape, *[1] * (x.ndim - 2)), axis=1)
