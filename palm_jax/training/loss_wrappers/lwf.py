"""Learning without forgetting (Li and Hoiem, arXiv 1606.09282): predictions for new data stay those of the start."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any

import jax
import jax.numpy as jnp

from palm_jax.bounds import Above, AtLeast, checked
from palm_jax.errors import UserError
from palm_jax.training.loss_wrappers.wrapper import LossWrapper
from palm_jax.training.metrics import Ratio


@checked
@dataclasses.dataclass(frozen=True)
class LwF(LossWrapper):
    """L + λ·KL(p* ‖ p), both softened, p = softmax(scores / T), p* predicted by the parameters of the start.

    The model of the start reads the new data, so nothing of the earlier tasks is needed. It predicts without dropout
    and without a gradient, in one more forward pass. The divergence is that of the task's own prediction: of a class,
    of every label, of every token, or, for numbers, the squared difference.

    Attributes:
      weight: weight λ (paper: 1); 0 trains without the earlier model.
      temperature: temperature T (paper: 2). As in the paper, the divergence is not multiplied by T².
    """

    weight: Annotated[float, AtLeast(0)] = 1.0
    temperature: Annotated[float, Above(0)] = 2.0

    def rows(self, inner, row):
        """Return those that the model of the start reads, too."""
        return inner.plus(without_gradient=1) if self.weight else inner

    def __call__(self, loss, inputs):
        """Return the loss; see `of_prediction`."""
        return super().__call__(loss, inputs) if self.weight else loss(inputs)

    def of_prediction(self, loss, prediction, inputs):
        """Return the loss; the metric `drift` is the mean divergence from the start, per target."""
        value, metrics = loss.of_prediction(prediction, inputs)
        if not self.weight:
            return value, metrics
        earlier = jax.lax.stop_gradient(loss.predict(inputs.replace(params=inputs.start, dropout_rng=None)))
        both = (self._softened(x) for x in (earlier, prediction))
        divergence, _ = loss.divergences(*both, inputs, inputs.start)
        return value + self.weight * divergence, metrics | {'drift': Ratio(divergence, metrics['loss'].count)}

    def anchor(self, model: Any, params: Any, trained: Any) -> dict[str, Any]:
        """Return `start`."""
        return {'start': jax.tree.map(jnp.copy, trained)} if self.weight else {}

    def fill(self, anchor, new, labels):
        """Refuse a head that the initial checkpoint does not have, or has for other labels."""
        if self.weight and 'head/kernel' in new:
            raise UserError(
                'LwF keeps what the earlier model predicts, and that has no head for these labels. Let '
                'INITIAL_CHECKPOINT_PATH be a run with the same labels, which LABELS can name in both runs, or a model '
                'that generates text.'
            )
        return anchor

    def _softened(self, prediction: Any) -> Any:
        """A prediction at the temperature: the scores of a head, or features, in which logits are linear."""
        if hasattr(prediction, 'scores'):
            return prediction.replace(scores=prediction.scores / self.temperature)
        return prediction / self.temperature
