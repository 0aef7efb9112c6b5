"""Unlikelihood training (Welleck et al., arXiv 1908.04319): tokens that are not to be generated."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Annotated

import jax
import jax.numpy as jnp

from palm_jax.bounds import AtLeast, checked
from palm_jax.errors import UserError
from palm_jax.models.kernels.unlikelihood import unlikelihood
from palm_jax.special_ids import EOS_ID
from palm_jax.training.loss_wrappers.wrapper import LossWrapper
from palm_jax.training.losses import gathered_output_matrix
from palm_jax.training.metrics import Ratio

_CHUNK_LENGTH = 32  # positions whose logits exist at the same time


@checked
@dataclasses.dataclass(frozen=True)
class Unlikelihood(LossWrapper):
    """L − α·Σ_t Σ_{c ∈ C_t} log(1 − p(c | x_<t)) over the targets, C_t what is not to follow.

    C_t has the single tokens of `phrases`; the last token of a longer phrase where the tokens before it are the last
    ones of x_<t; and, of the last `repeat_window` tokens of x_<t, all but the target, which training on repetitions
    asks for. The phrases are unlikely even where the data has them.

    Attributes:
      weight: weight α (paper: 1); 0 trains without it.
      phrases: token ids of each phrase.
      repeat_window: number of the last tokens that are not to be repeated; 0 allows all. The paper takes the whole
        context.
    """

    weight: Annotated[float, AtLeast(0)] = 1.0
    phrases: Sequence[Sequence[int]] = ()
    repeat_window: Annotated[int, AtLeast(0)] = 0

    def check(self, model):
        """Refuse a model that does not generate text, and a method without anything unlikely."""
        if not self.weight:
            return
        if model.head is not None:
            raise UserError(
                'Unlikelihood is for models that generate text, --gin_file=gin/heads/text_to_text.gin or dialogue.gin, '
                'and this one has a head: leave the method out.'
            )
        if not self.phrases and not self.repeat_window:
            raise UserError(
                'Unlikelihood has nothing that is not to be generated: set --gin.UNLIKELY_PHRASES="[\'...\']" or '
                '--gin.REPEAT_WINDOW=64.'
            )

    def __call__(self, loss, inputs):
        """Return the loss; see `of_prediction`."""
        return super().__call__(loss, inputs) if self.weight else loss(inputs)

    def of_prediction(self, loss, prediction, inputs):
        """Return the loss; the metric `unlikelihood` is the mean of −Σ_c log(1 − p(c)) per target."""
        value, metrics = loss.of_prediction(prediction, inputs)
        if not self.weight:
            return value, metrics
        batch, model = inputs.batch, inputs.model
        num_ids = model.arch.vocab_size
        always = [phrase[0] for phrase in self.phrases if len(phrase) == 1]
        penalty = unlikelihood(
            prediction,
            gathered_output_matrix(inputs.params, prediction.dtype),
            batch['decoder_target_tokens'],
            batch['decoder_loss_weights'].astype(jnp.float32),
            self._candidates(batch, num_ids),
            jnp.zeros(num_ids, bool).at[jnp.array(always, jnp.int32)].set(True),
            model.arch.output_scale,
            _CHUNK_LENGTH,
            skip_unweighted=True,
        )
        return value + self.weight * penalty, metrics | {'unlikelihood': Ratio(penalty, metrics['loss'].count)}

    def _candidates(self, batch: dict[str, jax.Array], num_ids: int) -> jax.Array:
        """Return the ids that are not to follow each position's input, int32 [B, L, K]; `num_ids` is none."""
        tokens_BL = batch['decoder_input_tokens']
        segments_BL = batch.get('decoder_segment_ids', jnp.ones_like(tokens_BL))

        def before(distance: int) -> jax.Array:
            """Inputs some positions before, −1 where they are of another segment."""
            shift = lambda x: jnp.pad(x, [(0, 0), (distance, 0)], constant_values=-1)[:, : x.shape[1]]  # noqa: E731
            return jnp.where(shift(segments_BL) == segments_BL, shift(tokens_BL), -1)

        found = []
        for distance in range(min(self.repeat_window, tokens_BL.shape[1])):
            earlier_BL = before(distance)
            found.append(jnp.where(earlier_BL > EOS_ID, earlier_BL, num_ids))
        for *beginning, last in (phrase for phrase in self.phrases if len(phrase) > 1):
            follows_BL = jnp.ones(tokens_BL.shape, bool)
            for distance, token in enumerate(reversed(beginning)):
                follows_BL &= before(distance) == token
            found.append(jnp.where(follows_BL, last, num_ids))
        return jnp.stack(found, axis=-1) if found else jnp.full((*tokens_BL.shape, 1), num_ids, jnp.int32)
