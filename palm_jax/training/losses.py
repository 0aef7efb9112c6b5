"""The language-modelling loss: token cross-entropy with z-loss."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from palm_jax.bounds import AtLeast, checked
from palm_jax.models.kernels.cross_entropy import softmax_cross_entropy
from palm_jax.models.kernels.divergence import softmax_divergences
from palm_jax.models.layers import output_matrix
from palm_jax.models.model import Model
from palm_jax.models.sharding import gather
from palm_jax.training.metrics import Metrics, Ratio

__all__ = ['LanguageModelLoss', 'features_of', 'has_row_losses', 'outputs_of', 'softmax_cross_entropy']


@checked
@dataclasses.dataclass(frozen=True)
class LanguageModelLoss:
    """−log p(target) + z_loss · log² Z, the weighted sum over all targets.

    The batch defines the objective: causal LM, prefix LM and the denoisers differ only in their tokens, in
    `decoder_loss_weights` and in `decoder_causal_attention`.

    Attributes:
      z_loss: weight of log² Z, the squared log of the softmax normalizer (paper: 1e-4).
      chunk_length: number of positions whose logits exist at the same time; 0 is all of them. The largest array of the
        loss is [B, chunk_length, V] instead of [B, L, V]. `auto` is 128, or 32 with `skip_unweighted`, and on a GPU as
        many as a sixteenth of its memory holds.
      skip_unweighted: compute no logits for positions of weight 0: the weighted positions of every row are moved to its
        front, and chunks without any are skipped. Worthwhile where the loss counts only part of the positions (text to
        text, denoising) and chunks are shorter than rows.
    """

    z_loss: Annotated[float, AtLeast(0)] = 1e-4
    chunk_length: Annotated[int, AtLeast(0)] | Literal['auto'] = 'auto'
    skip_unweighted: bool = False

    def __call__(
        self, model: Model, params: Any, batch: dict[str, jax.Array], dropout_rng: jax.Array | None = None
    ) -> tuple[jax.Array, Metrics]:
        """Compute the loss of one batch.

        Args:
          model: model whose `features` are computed.
          params: parameters of the model.
          batch: seqio's decoder features, int32 [B, L]: `decoder_input_tokens`, `decoder_target_tokens`,
            `decoder_loss_weights` and, if the objective has them, `decoder_positions`, `decoder_segment_ids`,
            `decoder_causal_attention`.
          dropout_rng: key of the dropout masks; None disables dropout.

        Returns:
          The *sum* over targets, float32, and metrics: `loss` (cross-entropy in nats per token), `z_loss`, `accuracy`.
          Divide the sum by `loss.count` for the mean.
        """
        return self.of_features(self.predict(model, params, batch, dropout_rng), model, params, batch)

    def predict(
        self, model: Model, params: Any, batch: dict[str, jax.Array], dropout_rng: jax.Array | None = None
    ) -> jax.Array:
        """Return what `of_prediction` computes the loss from: features [B, L, D]; see `loss_wrappers.wrapper.Loss`."""
        return features_of(model, params, batch, dropout_rng)

    def of_prediction(
        self, prediction: jax.Array, model: Model, params: Any, batch: dict[str, jax.Array]
    ) -> tuple[jax.Array, Metrics]:
        """Return the same as `__call__`, from the result of `predict`."""
        return self.of_features(prediction, model, params, batch)

    def divergences(
        self,
        p_BLD: jax.Array,
        q_BLD: jax.Array,
        model: Model,
        params: Any,
        batch: dict[str, jax.Array],
        p_params: Any = None,
    ) -> tuple[jax.Array, jax.Array]:
        """Return KL(p ‖ q) and KL(q ‖ p) between the next tokens of two predictions, weighted sums over targets.

        Args:
          p_BLD, q_BLD: results of `predict`.
          model, params, batch: see `__call__`.
          p_params: parameters that p was predicted with; None is `params`.
        """
        matrix = gathered_output_matrix(params, p_BLD.dtype)
        if p_params is not None and output_matrix(p_params) is not output_matrix(params):
            zeros = jnp.zeros_like(p_BLD)  # beside each other, both matrices are one
            p_BLD, q_BLD = (jnp.concatenate(parts, axis=-1) for parts in ((p_BLD, zeros), (zeros, q_BLD)))
            matrix = jnp.concatenate([gathered_output_matrix(p_params, matrix.dtype), matrix], axis=-1)
        return softmax_divergences(
            p_BLD,
            q_BLD,
            matrix,
            batch['decoder_loss_weights'].astype(jnp.float32),
            model.arch.output_scale,
            self.chunk_length,
            self.skip_unweighted,
        )

    def likelihood(self) -> LanguageModelLoss:
        """Return the loss that is −log p(target) alone."""
        return dataclasses.replace(self, z_loss=0.0)

    def with_sampled_targets(
        self, prediction: jax.Array, model: Model, params: Any, batch: dict[str, jax.Array], rng: jax.Array
    ) -> dict[str, jax.Array]:
        """Return the batch with targets that are drawn from a prediction, a result of `predict`."""
        logits_BLV = model.apply({'params': params}, prediction, method=lambda palm, h_BLD: palm.embed.attend(h_BLD))
        return batch | {'decoder_target_tokens': jax.random.categorical(rng, logits_BLV.astype(jnp.float32))}

    def of_features(
        self, h_BLD: jax.Array, model: Model, params: Any, batch: dict[str, jax.Array]
    ) -> tuple[jax.Array, Metrics]:
        """Compute the loss from features [B, L, D]; the other arguments and the result are those of `__call__`."""
        weights_BL = batch['decoder_loss_weights'].astype(jnp.float32)
        loss, (cross_entropy, z_loss, correct) = softmax_cross_entropy(
            h_BLD,
            gathered_output_matrix(params, h_BLD.dtype),
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


def gathered_output_matrix(params: Any, dtype: DTypeLike) -> jax.Array:
    """Return the matrix of the logits [V, D], gathered once for all chunks."""
    return gather(output_matrix(params).astype(dtype), 'vocab', 'embed')


def has_row_losses(loss: Any) -> bool:
    """Return whether a row has a loss of its own: not where the rows of a batch are compared (`compares_rows`)."""
    return not getattr(loss, 'compares_rows', False)


def features_of(
    model: Model, params: Any, batch: dict[str, jax.Array], dropout_rng: jax.Array | None = None
) -> jax.Array:
    """Compute the model's features of a batch, [B, L, D]; the arguments are those of `LanguageModelLoss`."""
    return outputs_of('features', model, params, batch, dropout_rng)


def outputs_of(
    method: str, model: Model, params: Any, batch: dict[str, jax.Array], dropout_rng: jax.Array | None
) -> jax.Array:
    """Return what a method of the model, `features` or `scores`, makes of a batch, with dropout if a key is given."""
    return model.apply(
        {'params': params},
        batch['decoder_input_tokens'],
        batch.get('decoder_positions'),
        batch.get('decoder_segment_ids'),
        batch.get('decoder_causal_attention'),
        deterministic=dropout_rng is None,
        rngs=None if dropout_rng is None else {'dropout': dropout_rng},
        method=method,
    )
