"""What methods for texts without labels share: predictions for two views of them, and what is logged of both."""

from __future__ import annotations

import abc
from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from palm_jax.errors import UserError
from palm_jax.training.loss_wrappers.of_texts import check_labels_texts
from palm_jax.training.loss_wrappers.wrapper import Loss, LossInputs, LossWrapper, Rows, SumAndMetrics
from palm_jax.training.metrics import Ratio

_VIEWS = ('unlabelled_tokens', 'unlabelled_strong_tokens')


class Unlabelled(LossWrapper):
    """L + λ·(mean loss of the texts without labels in the batch); see `data.supervised.unlabelled.WithUnlabelled`.

    The class that a text is taken for, or its distribution, is predicted without a gradient. Where the batch has a
    changed (strong) view of the texts, that view is trained; otherwise the text itself is.
    """

    stage: ClassVar[int] = 3
    weight: float

    @abc.abstractmethod
    def of_texts(self, weak_UC: jax.Array, strong_UC: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Return the loss of U texts, float32 [U], and which of them are confident, boolean [U].

        Args:
          weak_UC: scores of the texts as they are, without a gradient.
          strong_UC: scores of their changed views, or of themselves.
        """

    def weight_at(self, step: jax.Array) -> jax.Array | float:
        """Return λ after a number of steps."""
        del step
        return self.weight

    def supervised(self, loss: Loss, inputs: LossInputs) -> SumAndMetrics:
        """Return the loss of the labelled texts."""
        return loss(inputs)

    def rows(self, inner: Rows, row: Mapping[str, Any]) -> Rows:
        """Return the labelled rows, and all views of the texts beside them."""
        views = sum(len(row[name]) for name in _VIEWS if name in row) if self.weight else 0
        return inner.plus(at_once=views, in_all=views)

    def check(self, model: Any) -> None:
        """Refuse a model that does not label whole texts."""
        if self.weight:
            check_labels_texts(type(self).__name__, model)

    def __call__(self, loss: Loss, inputs: LossInputs) -> SumAndMetrics:
        """Return the loss.

        Further metrics are of texts without labels: `unlabelled_loss`; `confident`, the share of those that are trained
        on; and `pseudo_accuracy`, how often the class of a confident text is right, of those whose class is known.
        """
        others = {name: x for name, x in inputs.batch.items() if name.startswith('unlabelled_')}
        labelled = inputs.replace(batch={name: x for name, x in inputs.batch.items() if name not in others})
        if not self.weight:
            return loss(labelled)
        if not others:
            raise UserError(
                f'{type(self).__name__} needs texts without labels in the batch: include gin/methods/unlabelled.gin.'
            )
        value, metrics = self.supervised(loss, labelled)
        weak_UC, strong_UC = self._scores(loss, inputs, others)
        loss_U, confident_U = self.of_texts(jax.lax.stop_gradient(weak_UC), strong_UC)
        count = metrics['loss'].count
        value = value + self.weight_at(inputs.step) * count * loss_U.mean()
        known_U = confident_U & (others['unlabelled_labels'].reshape(-1) >= 0)
        right_U = known_U & (weak_UC.argmax(axis=-1) == others['unlabelled_labels'].reshape(-1))
        size = jnp.float32(len(loss_U))
        return value, metrics | {
            'unlabelled_loss': Ratio(loss_U.sum(), size),
            'confident': Ratio(confident_U.sum().astype(jnp.float32), size),
            'pseudo_accuracy': Ratio(right_U.sum().astype(jnp.float32), known_U.sum().astype(jnp.float32)),
        }

    def _scores(self, loss: Loss, inputs: LossInputs, others: dict[str, jax.Array]) -> tuple[jax.Array, jax.Array]:
        """Scores of both views from one pass, [U, C] each; the views of a text are next to each other."""
        views = [name.removesuffix('_tokens') for name in _VIEWS if name in others]
        both = {
            f'decoder_{to}': jnp.stack([others[f'{view}_{of}'] for view in views], axis=2)
            for to, of in (('input_tokens', 'tokens'), ('segment_ids', 'segment_ids'))
        }
        flat = {name: x.reshape(-1, x.shape[-1]) for name, x in both.items()}
        if 'decoder_causal_attention' in inputs.batch:
            flat['decoder_causal_attention'] = flat['decoder_segment_ids']
        rng = jax.random.fold_in(inputs.rng, 2)
        dropout_rng = None if inputs.dropout_rng is None else rng
        scores = loss.predict(inputs.replace(batch=flat, dropout_rng=dropout_rng, rng=rng)).scores
        scores_UVC = scores.reshape(-1, len(views), scores.shape[-1])
        return scores_UVC[:, 0], scores_UVC[:, -1]
