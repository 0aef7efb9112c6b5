"""Contrast between the features of a batch: cosine similarities of its rows, and the losses that they give."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from palm_jax.models.saturation import LARGEST_FACTOR, tempered

_MINUS_INFINITY = -1e30  # of a logit that is left out, with finite gradients


def normalized(x_BD: jax.Array) -> jax.Array:
    """Each row divided by its Euclidean norm, float32; a row of zeros stays one."""
    x_BD = x_BD.astype(jnp.float32)
    largest_B1 = jax.lax.stop_gradient(jnp.abs(x_BD).max(axis=-1, keepdims=True))
    x_BD = x_BD / jnp.where(largest_B1 > LARGEST_FACTOR, largest_B1 / 1024, 1.0)  # else its square would overflow
    return x_BD * jax.lax.rsqrt(jnp.maximum(jnp.square(x_BD).sum(axis=-1, keepdims=True), 1e-12))


def supervised_contrast(x_BD: jax.Array, labels_B: jax.Array, used_B: jax.Array, temperature: float) -> jax.Array:
    """Supervised contrastive loss of each row (Khosla et al., arXiv 2004.11362, L_out; Gunel et al., arXiv 2011.01403).

    −1/|P(i)| · Σ_{p ∈ P(i)} log(exp(z_i·z_p / τ) / Σ_{k ≠ i} exp(z_i·z_k / τ)), z the normalized features and P(i) the
    other rows with the label of row i. A row without any has a loss of 0.

    Args:
      x_BD: features.
      labels_B: int32 labels.
      used_B: boolean; other rows are neither contrasted nor contrasted with.
      temperature: τ.

    Returns:
      float32 [B].
    """
    z_BD = normalized(x_BD)
    others_BB = used_B[None] & used_B[:, None] & ~jnp.eye(len(z_BD), dtype=bool)
    logits_BB = jnp.where(others_BB, tempered(z_BD @ z_BD.T, temperature), _MINUS_INFINITY)
    log_p_BB = jax.nn.log_softmax(logits_BB, axis=-1)
    same_BB = others_BB & (labels_B[None] == labels_B[:, None])
    return -jnp.where(same_BB, log_p_BB, 0.0).sum(axis=-1) / jnp.maximum(same_BB.sum(axis=-1), 1)


def in_batch_contrast(
    anchors_BD: jax.Array, candidates_KD: jax.Array, used_K: jax.Array, temperature: float
) -> tuple[jax.Array, jax.Array]:
    """−log(exp(cos(a_i, c_i) / τ) / Σ_k exp(cos(a_i, c_k) / τ)) of each anchor (Gao et al., arXiv 2104.08821).

    Args:
      anchors_BD: features of B texts.
      candidates_KD: features of K ≥ B texts, the first B of which are the anchors' positives, in order.
      used_K: boolean; other candidates are left out of the sum.
      temperature: τ.

    Returns:
      The loss, float32 [B], and whether the positive is the nearest candidate, boolean [B].
    """
    cosines_BK = normalized(anchors_BD) @ normalized(candidates_KD).T
    logits_BK = jnp.where(used_K[None], tempered(cosines_BK, temperature), _MINUS_INFINITY)
    loss_B = -jnp.diagonal(jax.nn.log_softmax(logits_BK, axis=-1))
    return loss_B, jnp.argmax(logits_BK, axis=-1) == jnp.arange(len(logits_BK))
