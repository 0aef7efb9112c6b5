"""SimCSE (Gao et al., arXiv 2104.08821): embeddings of texts by contrast within a batch."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp

from palm_jax.bounds import Above, checked
from palm_jax.errors import UserError
from palm_jax.models.heads import pool
from palm_jax.models.model import Model
from palm_jax.training.contrast import in_batch_contrast
from palm_jax.training.losses import features_of
from palm_jax.training.metrics import Metrics, Ratio


@checked
@dataclasses.dataclass(frozen=True)
class SimCSELoss:
    """−log(e^{cos(h_i, h_i⁺) / τ} / Σ_j e^{cos(h_i, h_j⁺) / τ}), h the pooled features of the texts of a batch.

    Unsupervised, h and h⁺ are of the same text with two dropout masks. Supervised, h⁺ is of the text of the same
    meaning, and hard negatives h_j⁻ are in the sum. In evaluation there is no dropout: the positive of a text alone
    is the text itself, and the loss tells how far apart texts are. A larger batch has more negatives; MICROBATCHES
    divide it. The paper's extra layer, which it discards after training, is left out.

    Attributes:
      temperature: temperature τ.
      pooling: feature of a text, see `models.heads.Head`.
      compares_rows: True, because a row alone has no loss.
    """

    temperature: Annotated[float, Above(0)] = 0.05
    pooling: Literal['last', 'first', 'mean'] = 'mean'
    compares_rows = True

    def __call__(
        self, model: Model, params: Any, batch: dict[str, jax.Array], dropout_rng: jax.Array | None = None
    ) -> tuple[jax.Array, Metrics]:
        """Compute the loss of one batch.

        Args:
          model: model whose features are computed.
          params: parameters of the model.
          batch: features [B, L] of `data.supervised.sentences.Sentences`.
          dropout_rng: key of the dropout masks; None disables dropout.

        Returns:
          The sum over texts, float32, and the metrics `loss` and `accuracy`: how often the positive is the nearest.

        Raises:
          UserError: texts without positives need dropout, and the model has none.
        """
        if 'decoder_positive_tokens' not in batch and not model.has_dropout:
            raise UserError(
                'SimCSE without POSITIVE_COLUMN compares two dropout masks, and this run has none: set '
                '--gin.DROPOUT_RATE=0.1.'
            )
        tokens, segments = _texts(batch)
        (B, N, L), weights = tokens.shape, batch['label_weights'].astype(jnp.float32)
        flat = {
            'decoder_input_tokens': tokens.reshape(B * N, L),
            'decoder_segment_ids': segments.reshape(B * N, L),
        }
        if 'decoder_causal_attention' in batch:
            flat['decoder_causal_attention'] = flat['decoder_segment_ids']
        h_XLD = features_of(model, params, flat, dropout_rng)
        h_BND = pool(h_XLD.astype(jnp.float32), flat['decoder_segment_ids'], self.pooling).reshape(B, N, -1)
        candidates_KD = jnp.concatenate([h_BND[:, n] for n in range(1, N)])
        loss, is_nearest = in_batch_contrast(h_BND[:, 0], candidates_KD, jnp.tile(weights > 0, N - 1), self.temperature)
        count, total = weights.sum(), (loss * weights).sum()
        return total, {'loss': Ratio(total, count), 'accuracy': Ratio((is_nearest * weights).sum(), count)}


def _texts(batch: dict[str, jax.Array]) -> tuple[jax.Array, jax.Array]:
    """Tokens and segment ids of the texts of each row, [B, N, L]; the text itself twice if it has no positive."""
    tokens, segments = [batch['decoder_input_tokens']], [batch['decoder_segment_ids']]
    for role in ('positive', 'negative'):
        if f'decoder_{role}_tokens' in batch:
            tokens.append(batch[f'decoder_{role}_tokens'])
            segments.append(batch[f'decoder_{role}_segment_ids'])
    if len(tokens) == 1:
        tokens, segments = tokens * 2, segments * 2
    return jnp.stack(tokens, axis=1), jnp.stack(segments, axis=1)
