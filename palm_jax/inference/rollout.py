"""Rows of a batch whose last target is replaced by a sample of the model, inside a compiled step of training."""

from __future__ import annotations

import dataclasses
from typing import Annotated

import jax
import jax.numpy as jnp

from palm_jax.bounds import Above, AtLeast, AtMost, Count, checked
from palm_jax.errors import UserError
from palm_jax.inference import decoding
from palm_jax.inference.sampling import SamplingParams
from palm_jax.models.model import Model
from palm_jax.special_ids import PAD_ID

Batch = dict[str, jax.Array]


@checked
@dataclasses.dataclass(frozen=True)
class Rollout:
    """Samples what the model itself would have generated, by the same decoding that serves it.

    The prompt of a row is what precedes its last learned turn: of an input with a target the input, of a dialogue all
    turns before the last reply, of plain text the start token. The sample ends at EOS, after `max_tokens`, or where the
    row ends.

    Attributes:
      max_tokens: maximum number of generated tokens.
      temperature: divisor of the logits; 0 is greedy decoding.
      top_p: nucleus sampling threshold; 1 keeps every token.
      top_k: number of most probable tokens to sample from; 0 keeps every token.
    """

    max_tokens: Count = 128
    temperature: Annotated[float, AtLeast(0)] = 0.9
    top_p: Annotated[float, Above(0), AtMost(1)] = 1.0
    top_k: Annotated[int, AtLeast(0)] = 0

    def __call__(self, model: Model, params: object, batch: Batch, rng: jax.Array) -> Batch:
        """Return the batch with samples as targets, which alone have weights.

        Args:
          model: model with its fine-tuning methods; decodes without dropout and without a gradient.
          params: all parameters of the model.
          batch: features [B, L] with one sequence per row; a row without weights has no sample.
          rng: key of the samples.

        Raises:
          UserError: rows hold several sequences.
        """
        if 'decoder_segment_ids' in batch:
            raise UserError('Samples of the model need a row for each example: leave PACK out.')
        tokens_BL, targets_BL = batch['decoder_input_tokens'], batch['decoder_target_tokens']
        start_B, room_B = self._places(batch['decoder_loss_weights'])
        sampled_BT, count_B = self._sample(model, params, batch, start_B, room_B, rng)
        number_BL = jnp.arange(tokens_BL.shape[1]) - start_B[:, None]  # of the target among the sampled ones
        is_sampled_BL = (number_BL >= 0) & (number_BL < count_B[:, None])
        at_BL = jnp.clip(number_BL, 0, sampled_BT.shape[1] - 1)
        sampled_BL = jnp.take_along_axis(sampled_BT, at_BL, axis=1).astype(targets_BL.dtype)
        sampled_BL = jnp.where(is_sampled_BL, sampled_BL, PAD_ID)
        targets_BL = jnp.where(number_BL < 0, targets_BL, sampled_BL)
        shifted_BL = jnp.pad(targets_BL, [(0, 0), (1, 0)])[:, :-1].astype(tokens_BL.dtype)
        return batch | {
            'decoder_input_tokens': jnp.where(number_BL <= 0, tokens_BL, shifted_BL),
            'decoder_target_tokens': targets_BL,
            'decoder_loss_weights': is_sampled_BL.astype(batch['decoder_loss_weights'].dtype),
        }

    def _places(self, weights_BL: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Return the index of the first target of each row's last learned turn, and how many tokens may be sampled."""
        length = weights_BL.shape[1]
        index_L, is_learned_BL = jnp.arange(length), weights_BL > 0
        last_B1 = jnp.where(is_learned_BL, index_L, -1).max(axis=1, keepdims=True)
        start_B = 1 + jnp.where(~is_learned_BL & (index_L < last_B1), index_L, -1).max(axis=1)
        return start_B, jnp.where(last_B1[:, 0] >= 0, jnp.minimum(self.max_tokens, length - start_B), 0)

    def _sample(self, model, params, batch, start_B, room_B, rng):
        """Return sampled tokens [B, T], and how many of each row are valid."""
        tokens_BL = batch['decoder_input_tokens']
        (B, L), num_ids = tokens_BL.shape, model.arch.vocab_size
        drawable_V = jnp.arange(num_ids) != PAD_ID
        model, params = decoding.unstack_layers(model, jax.lax.stop_gradient(params))
        state, first = decoding.prefill(
            *(model, params, tokens_BL, start_B + 1, room_B, self._sampling_params(B, rng)),
            room=0,  # a sample ends where its row does
            bidirectional='decoder_causal_attention' in batch,
            drawable_V=drawable_V,
        )
        if (steps := min(self.max_tokens, L) - 1) == 0:
            return first.tokens, first.count
        _, rest = decoding.decode(model, params, state, steps=steps, drawable_V=drawable_V)
        return jnp.concatenate([first.tokens, rest.tokens], axis=1), first.count + rest.count

    def _sampling_params(self, size: int, rng: jax.Array) -> SamplingParams:
        ones_B = jnp.ones(size, jnp.float32)
        return SamplingParams(
            temperature=self.temperature * ones_B,
            top_k=jnp.full(size, min(self.top_k, 2**31 - 1), jnp.int32),
            top_p=self.top_p * ones_B,
            min_p=0 * ones_B,
            repetition_penalty=ones_B,
            seed=jnp.broadcast_to(jax.random.bits(rng, (), jnp.uint32), (size,)),
            number=jnp.arange(size, dtype=jnp.int32),
            sample=jnp.zeros(size, jnp.int32),
        )
