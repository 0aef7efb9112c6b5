"""Counterfactual logit pairing (Garg et al., arXiv 1809.10610): scores that do not depend on the group named."""

from __future__ import annotations

import dataclasses
from typing import Annotated

import jax
import jax.numpy as jnp

from palm_jax.bounds import AtLeast, checked
from palm_jax.errors import UserError
from palm_jax.training.loss_wrappers.of_texts import check_labels_texts
from palm_jax.training.loss_wrappers.wrapper import LossWrapper
from palm_jax.training.metrics import Ratio

_TOKENS, _SEGMENTS, _WEIGHTS = 'counterfactual_tokens', 'counterfactual_segment_ids', 'counterfactual_weights'


@checked
@dataclasses.dataclass(frozen=True)
class CLP(LossWrapper):
    """L + λ·Σ_x mean_{x′} |z(x) − z(x′)|, x′ the text with words of other groups, z the scores, a mean over outputs.

    The counterfactual texts are in the batch, see `data.supervised.counterfactuals.Counterfactuals`; a text without a
    word of a group has L alone. All of them are scored in one pass over the batch with every row next to its own.

    Attributes:
      weight: weight λ (paper: 0.05 to 5); 0 trains without counterfactual texts.
    """

    stage = 1
    weight: Annotated[float, AtLeast(0)] = 1.0

    def check(self, model):
        """Refuse a model that does not score whole texts."""
        if self.weight:
            check_labels_texts('CLP', model)

    def rows(self, inner, row):
        """Return every row with its counterfactual texts."""
        return inner.times(1 + len(row[_TOKENS])) if self.weight and _TOKENS in row else inner

    def __call__(self, loss, inputs):
        """Return the loss; the metric `counterfactual_gap` is the mean of |z(x) − z(x′)| over texts that have an x′."""
        others = {name: x for name, x in inputs.batch.items() if name in (_TOKENS, _SEGMENTS, _WEIGHTS)}
        plain = inputs.replace(batch={name: x for name, x in inputs.batch.items() if name not in others})
        if not self.weight:
            return loss(plain)
        if _TOKENS not in others:
            raise UserError('CLP needs counterfactual texts in the batch: include gin/methods/clp.gin.')
        count = 1 + others[_TOKENS].shape[1]
        rows = {name: jnp.repeat(x, count, axis=0) for name, x in plain.batch.items()}
        beside = {'decoder_input_tokens': others[_TOKENS], 'decoder_segment_ids': others[_SEGMENTS]}
        if 'decoder_causal_attention' in rows:
            beside['decoder_causal_attention'] = others[_SEGMENTS]
        for name, x_BKL in beside.items():
            missing = x_BKL.shape[-1] - plain.batch[name].shape[-1]
            x_BL = jnp.pad(plain.batch[name], ((0, 0), (0, missing)))
            x_BRL = jnp.concatenate([x_BL[:, None], x_BKL], axis=1)
            rows[name] = x_BRL.reshape(-1, x_BRL.shape[-1])
        prediction = loss.predict(inputs.replace(batch=rows))
        parts = jax.tree.map(lambda x: x.reshape(-1, count, *x.shape[1:]), prediction)
        value, metrics = loss.of_prediction(jax.tree.map(lambda x: x[:, 0], parts), plain)
        gap_BK = jnp.abs(parts.scores[:, 1:] - parts.scores[:, :1]).mean(axis=-1)
        known_BK = others[_WEIGHTS].astype(jnp.float32)
        number_B = known_BK.sum(axis=1)
        gap_B = (gap_BK * known_BK).sum(axis=1) / jnp.where(number_B > 0, number_B, 1.0)
        weights_B = plain.batch['label_weights'].astype(jnp.float32) * (number_B > 0)
        gap = (gap_B * weights_B).sum()
        return value + self.weight * gap, metrics | {'counterfactual_gap': Ratio(gap, weights_B.sum())}
