"""Beam search with length normalization."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Annotated, Literal

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from palm_jax.bounds import AtLeast, checked
from palm_jax.inference import decoding
from palm_jax.inference.completion import Completion
from palm_jax.inference.decoding import Weights
from palm_jax.inference.generate import Decoder, drawable_ids, next_power_of_two
from palm_jax.models.quantization import dequantize_tree
from palm_jax.special_ids import EOS_ID


@checked
@dataclasses.dataclass(frozen=True)
class BeamSearch(Decoder):
    """Beam search: the highest-scoring completions among those that `num_beams` beams find.

    The score of a completion is the sum of its tokens' log-probabilities, including EOS, divided by their
    number to the power `length_penalty` (Wu et al., arXiv 1609.08144, with the plain length, as in
    Transformers). The search ends once no unfinished beam can score higher.

    Attributes:
      num_beams: number of unfinished beams that are kept, and of completions returned.
      length_penalty: exponent of the length; 0 ranks by the sum and prefers short texts, 1 ranks by the mean.
      max_tokens: maximum number of generated tokens.
      batch_size: number of prompts decoded together.
      weights: `stored` or `int8`, see `models.quantization`.
      stop: strings at the first of which a completion is cut; the search goes on to EOS.
    """

    num_beams: Annotated[int, AtLeast(1)] = 4
    length_penalty: Annotated[float, AtLeast(0)] = 1.0
    max_tokens: Annotated[int, AtLeast(1)] = 96
    batch_size: Annotated[int, AtLeast(1)] = 8
    weights: Weights = 'stored'
    stop: Sequence[str] = ()

    def _generate_batch(self, model, params, vocabulary, tokens, lengths, left, numbers, bidirectional):
        del numbers
        room = next_power_of_two(int(left.max()), 16)
        found = _search(
            model, params, tokens, lengths, left, room, bidirectional, self.num_beams, self.length_penalty,
            drawable_ids(vocabulary, model.arch.vocab_size),
        )  # fmt: skip
        scores, ids, counts, logprobs = map(np.asarray, found)

        def completion(b: int, k: int) -> Completion:
            kept, has_ended = ids[b, k, : counts[b, k]].tolist(), ids[b, k, counts[b, k] - 1] == EOS_ID
            tokens_bk = tuple(kept[:-1] if has_ended else kept)
            whole = vocabulary.decode(tokens_bk)
            text = whole[: min((i for i in map(whole.find, self.stop) if i >= 0), default=len(whole))]
            is_over = has_ended or len(text) < len(whole)
            finish_reason: Literal['stop', 'length'] = 'stop' if is_over else 'length'
            gained = tuple(logprobs[b, k, : counts[b, k]].tolist())
            return Completion(tokens_bk, text, finish_reason, gained, float(scores[b, k]))

        return [
            [completion(b, k) for k in range(self.num_beams) if np.isfinite(scores[b, k])] for b in range(len(tokens))
        ]


@flax.struct.dataclass
class _Beams:
    """K partial or finished completions of B prompts: scores, tokens, lengths and per-token log-probabilities."""

    score: jax.Array  # float32 [B, K]
    tokens: jax.Array  # int32 [B, K, T]
    count: jax.Array  # int32 [B, K]
    logprobs: jax.Array  # float32 [B, K, T]

    def best(self, other: _Beams, k: int) -> _Beams:
        """Return the k highest-scoring beams of both."""
        both = jax.tree.map(lambda x, y: jnp.concatenate([x, y], axis=1), self, other)
        return both.pick(jax.lax.top_k(both.score, k)[1])

    def pick(self, indices_BK: jax.Array) -> _Beams:
        """Return the beams at these indices."""
        return jax.tree.map(lambda x: _pick(x, indices_BK), self)


def _pick(x: jax.Array, indices_BK: jax.Array) -> jax.Array:
    return jnp.take_along_axis(x, indices_BK.reshape(*indices_BK.shape, *(1,) * (x.ndim - 2)), axis=1)


@functools.partial(jax.jit, static_argnums=(0, 5, 6, 7, 8))
def _search(model, params, tokens_BP, lengths_B, remaining_B, room, bidirectional, beams, length_penalty, drawable_V):
    """Return scores [B, K], tokens [B, K, T], counts [B, K] and log-probabilities [B, K, T], best first."""
    B, K, T, V = tokens_BP.shape[0], beams, room, model.arch.vocab_size
    variables = {'params': dequantize_tree(params, model.arch.dtype)}
    h_BD, cache = decoding.read(model, variables, tokens_BP, lengths_B, room, bidirectional)
    cache = jax.tree.map(lambda c: jnp.repeat(c, K, axis=0), cache)
    normalized = lambda total, count: total / jnp.maximum(count, 1) ** length_penalty  # noqa: E731

    def logprobs(h_XD):
        logits = model.apply(variables, h_XD[:, None], method=lambda m, h: m.embed.attend(h))[:, 0]
        return jnp.where(drawable_V, jax.nn.log_softmax(logits, axis=-1), -jnp.inf).reshape(B, K, V)

    def extend(t, live: _Beams, ended: _Beams, logp_BKV) -> tuple[_Beams, _Beams, jax.Array]:
        """Append a token: return the best live beams, the best ended ones, and the parents of the live ones."""
        # Of 2K candidates at most K end here, so K remain live.
        total_BX = (live.score[..., None] + logp_BKV).reshape(B, K * V)
        score_BC, index_BC = jax.lax.top_k(total_BX, min(2 * K, K * V))
        beam_BC, token_BC = index_BC // V, index_BC % V
        new = live.pick(beam_BC)
        gained_BC = jnp.take_along_axis(logp_BKV.reshape(B, K * V), index_BC, axis=1)
        new = dataclasses.replace(
            new,
            score=score_BC,
            tokens=new.tokens.at[:, :, t].set(token_BC),
            count=new.count + 1,
            logprobs=new.logprobs.at[:, :, t].set(gained_BC),
        )
        is_last_B1 = (t + 1 >= remaining_B)[:, None]
        ends_BC = (token_BC == EOS_ID) | is_last_B1
        end_score_BC = jnp.where(ends_BC & (t < remaining_B)[:, None], normalized(new.score, new.count), -jnp.inf)
        ended = ended.best(dataclasses.replace(new, score=end_score_BC), K)
        live_score_BK, index_BK = jax.lax.top_k(jnp.where(ends_BC, -jnp.inf, score_BC), K)
        return (
            dataclasses.replace(new.pick(index_BK), score=live_score_BK),
            ended,
            jnp.take_along_axis(beam_BC, index_BK, axis=1),
        )

    def unfinished(carry):
        t, live, ended, _ = carry
        # Sums only decrease, so divided by the largest length they are an upper bound.
        bound_B = normalized(jnp.max(live.score, axis=1), remaining_B)
        return (t < T) & jnp.any(bound_B > jnp.min(ended.score, axis=1))

    def body(carry):
        t, live, ended, cache = carry
        token_X = live.tokens[:, :, t - 1].reshape(B * K)
        position_X = jnp.repeat(lengths_B + t - 1, K)
        h_X1D, cache = model.apply(
            variables | {'cache': cache}, token_X[:, None], position_X[:, None], method='features', mutable=['cache']
        )
        live, ended, beam_BK = extend(t, live, ended, logprobs(h_X1D[:, 0]))
        from_X = (jnp.arange(B)[:, None] * K + beam_BK).reshape(B * K)
        return t + 1, live, ended, jax.tree.map(lambda c: c[from_X], cache['cache'])

    none = _Beams(
        jnp.full((B, K), -jnp.inf), jnp.zeros((B, K, T), jnp.int32), jnp.zeros((B, K), jnp.int32), jnp.zeros((B, K, T))
    )
    first = dataclasses.replace(none, score=none.score.at[:, 0].set(0.0))  # the prompt, once
    live, ended, _ = extend(0, first, none, logprobs(jnp.repeat(h_BD, K, axis=0)))
    _, _, ended, _ = jax.lax.while_loop(unfinished, body, (jnp.ones((), jnp.int32), live, ended, cache))
    return ended.score, ended.tokens, ended.count, ended.logprobs
