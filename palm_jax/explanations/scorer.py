"""Values of outputs, and their gradients with respect to the embedded inputs, in batches of bounded size."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from palm_jax.explanations.explainable import AnswerOutput, Explainable, HeadOutput
from palm_jax.models.embedded_inputs import WithEmbeddedInputs

Baseline = Literal['padding', 'zero', 'mean']
Batch = dict[str, np.ndarray]
_TOKENS_PER_ROW = 512  # rows of more tokens come in smaller batches
_CHUNK = 64  # targets of an answer whose logits are in memory at a time


@dataclasses.dataclass(frozen=True)
class Scorer:
    """Computes values and gradients of outputs, in float32 whatever the model's compute dtype.

    Attributes:
      model: model, with or without methods attached.
      params: parameters of the model.
      batch_size: rows of up to 512 tokens per pass; of longer rows fewer, so that memory is bounded.
      baseline: embedding that stands for an absent word: `padding` is that of the padding id, `zero` is zero, `mean`
        is the average over the vocabulary.
    """

    model: Any
    params: Any
    batch_size: int = 16
    baseline: Baseline = 'padding'

    @functools.cached_property
    def _float32(self) -> Any:
        arch = dataclasses.replace(self.model.arch, dtype='float32')
        return self.model.clone(arch=arch, frozen_layers=0)  # frozen layers pass no gradient to the inputs

    def values(
        self, rows: Sequence[Explainable], title: str = 'values', at: Literal['input', 'baseline'] = 'input'
    ) -> np.ndarray:
        """Return the value of the output of each row, or where all its words are the baseline, float64 [N]."""
        results = np.zeros(len(rows))
        for numbers, batch in self._batches(rows, range(len(rows)), title):
            found = _values(self._float32, _value_of(rows[0]), self.baseline, self.params, batch, at == 'input')
            results[numbers] = np.asarray(found)[: len(numbers)]
        return results

    def gradients(
        self, rows: Sequence[Explainable], numbers: Sequence[int], points: Sequence[float], title: str = 'gradients'
    ) -> Iterator[tuple[list[int], np.ndarray, np.ndarray]]:
        """Yield gradients at points of the straight path from the baseline x′ to the embedded inputs x.

        Args:
          rows: rows to explain.
          numbers: index into `rows` of each of P gradients.
          points: α of each gradient, which is taken at x′ + α·(x − x′).
          title: title of the progress bar.

        Yields:
          Indices into `numbers`; Σ_d x·∇f and Σ_d (x − x′)·∇f per token, float32 [B, L] each.
        """
        for chosen, batch in self._batches(rows, numbers, title):
            alphas = np.resize(np.array([points[i] for i in chosen], np.float32), len(batch['tokens']))
            by_input, by_path = _gradients(self._float32, _value_of(rows[0]), self.baseline, self.params, batch, alphas)
            yield chosen, np.asarray(by_input), np.asarray(by_path)

    def _batches(
        self, rows: Sequence[Explainable], numbers: Sequence[int], title: str
    ) -> Iterator[tuple[list[int], Batch]]:
        """Yield indices into `numbers`, and the arrays of their rows, in order of length and padded to few shapes."""
        order = sorted(range(len(numbers)), key=lambda i: len(rows[numbers[i]].ids))
        start = 0
        with tqdm(
            total=len(order), desc=title, unit=' rows', leave=False, disable=len(order) <= self.batch_size
        ) as bar:
            while start < len(order):
                # Of the rows that may come next the last is the longest: as many as still fit with it.
                count = min(self.batch_size, len(order) - start)
                while count > 1 and count * self._length(rows, numbers, order[start + count - 1]) > self._tokens:
                    count -= 1
                chosen = order[start : start + count]
                yield chosen, _arrays([rows[numbers[i]] for i in chosen], min(self.batch_size, _power_of_four(count)))
                start += count
                bar.update(count)

    @property
    def _tokens(self) -> int:
        return self.batch_size * _TOKENS_PER_ROW

    @staticmethod
    def _length(rows: Sequence[Explainable], numbers: Sequence[int], i: int) -> int:
        return _power_of_two(len(rows[numbers[i]].ids))


def _power_of_two(n: int, least: int = 1) -> int:
    return max(least, 1 << max(n - 1, 0).bit_length())


def _power_of_four(n: int) -> int:
    """Return the smallest power of four that is at least n: few shapes of batches to compile."""
    return 1 << 2 * (((n - 1).bit_length() + 1) // 2)


def _arrays(rows: Sequence[Explainable], size: int) -> Batch:
    """Return the arrays of rows, the last of them repeated up to `size` rows."""
    rows = [*rows, *[rows[-1]] * (size - len(rows))]
    length = _power_of_two(max(len(row.ids) for row in rows), 16)
    num_targets = _power_of_two(max(len(_reads(row)) for row in rows))
    batch = {name: np.zeros((size, length), np.int32) for name in ('tokens', 'segments', 'bidirectional', 'is_word')}
    batch |= {name: np.zeros((size, num_targets), np.int32) for name in ('positions', 'targets', 'weights')}
    output = rows[0].output
    if isinstance(output, HeadOutput):
        num_scores = 1 + max(i for row in rows for m in row.output.margins for i in (m.index, *m.against))
        batch['against'] = np.zeros((size, num_targets, num_scores), bool)
        batch['of_decision'] = np.zeros((size, num_targets), bool)
    for i, row in enumerate(rows):
        batch['tokens'][i, : len(row.ids)] = row.ids
        batch['segments'][i, : len(row.ids)] = 1
        batch['bidirectional'][i, : row.num_bidirectional] = 1
        batch['is_word'][i, [t for word in row.words for t in word.tokens]] = 1
        read = _reads(row)
        batch['positions'][i, : len(read)], batch['weights'][i, : len(read)] = read, 1
        if isinstance(row.output, HeadOutput):
            for t, margin in enumerate(row.output.margins):
                batch['targets'][i, t] = margin.index
                batch['against'][i, t, list(margin.against)] = True
                batch['of_decision'][i, t] = margin.is_of_decision
        else:
            batch['targets'][i, : len(read)] = row.output.targets
    if not any(row.num_bidirectional for row in rows):
        del batch['bidirectional']
    return batch


def _reads(row: Explainable) -> Sequence[int]:
    """Return the positions that an output reads; 0 where it reads the scores of the whole row."""
    return (0,) if row.output.positions is None else row.output.positions


def _value_of(row: Explainable) -> Any:
    """Return the function that computes the values of a batch of rows like this one."""
    return _answer_values if isinstance(row.output, AnswerOutput) else _margins


def _margins(model: Any, params: Any, batch: dict[str, jax.Array]) -> jax.Array:
    """Return the sum of the margins of each row, float32 [B]; see `Margin`."""
    scores = model.apply(
        {'params': params}, batch['tokens'], None, batch['segments'], batch.get('bidirectional'), method='scores'
    )
    scores_BLC = scores[:, None] if scores.ndim == 2 else scores
    scores_BTC = jnp.take_along_axis(scores_BLC, batch['positions'][..., None], axis=1)
    chosen_BT = jnp.take_along_axis(scores_BTC, batch['targets'][..., None], axis=2)[..., 0]
    against_BTC = batch['against']
    is_contrast_BT1 = against_BTC.any(axis=2, keepdims=True)
    # Without scores against it, the log of the sum of all others is computed and dropped: its gradient is finite.
    others_BTC = jnp.where(against_BTC | ~is_contrast_BT1, scores_BTC[..., : against_BTC.shape[2]], -jnp.inf)
    others_BT = jnp.where(batch['of_decision'], others_BTC.max(axis=2), jax.nn.logsumexp(others_BTC, axis=2))
    others_BT = jnp.where(is_contrast_BT1[..., 0], others_BT, 0.0)
    return ((chosen_BT - others_BT) * batch['weights']).sum(axis=1)


def _answer_values(model: Any, params: Any, batch: dict[str, jax.Array]) -> jax.Array:
    """Return the log-probability of the answer of each row, float32 [B]."""
    h_BLD = model.apply(
        {'params': params}, batch['tokens'], None, batch['segments'], batch.get('bidirectional'), method='features'
    )
    h_BTD = jnp.take_along_axis(h_BLD, batch['positions'][..., None], axis=1)
    B, T, D = h_BTD.shape
    size = min(_CHUNK, T)  # T is a power of two, so that chunks are whole

    @jax.checkpoint
    def of_chunk(chunk):
        h_BtD, targets_Bt = chunk
        logits_BtV = model.apply({'params': params}, h_BtD, method=lambda palm, h: palm.embed.attend(h))
        return jnp.take_along_axis(jax.nn.log_softmax(logits_BtV), targets_Bt[..., None], axis=2)[..., 0]

    chunks = h_BTD.reshape(B, -1, size, D).swapaxes(0, 1), batch['targets'].reshape(B, -1, size).swapaxes(0, 1)
    logprobs_BT = jax.lax.map(of_chunk, chunks).swapaxes(0, 1).reshape(B, T)
    return (logprobs_BT * batch['weights']).sum(axis=1)


def embed(model: Any, params: Any, tokens_BL: jax.Array) -> jax.Array:
    """Return the embedded inputs [B, L, D] of token ids."""
    return model.apply({'params': params}, tokens_BL, method=lambda palm, tokens_BL: palm.embed(tokens_BL))


def _ends_of_path(model, baseline, params, batch):
    """Return x′ and x, float32 [B, L, D] each: words are the baseline in x′, other tokens are equal in both."""
    x_BLD = embed(model, params, batch['tokens'])
    if baseline == 'zero':
        absent = jnp.zeros((), x_BLD.dtype)
    elif baseline == 'padding':
        absent = embed(model, params, jnp.zeros((1, 1), jnp.int32))[0, 0]
    else:
        ids_1V = jnp.arange(model.arch.vocab_size, dtype=jnp.int32)[None]
        absent = embed(model, params, ids_1V)[0].mean(axis=0)
    return jnp.where(batch['is_word'][..., None] > 0, absent, x_BLD), x_BLD


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _gradients(model, value, baseline, params, batch, alphas_B):
    start_BLD, x_BLD = _ends_of_path(model, baseline, params, batch)

    def total(point_BLD):
        return value(WithEmbeddedInputs(model, lambda _: point_BLD), params, batch).sum()

    difference_BLD = x_BLD - start_BLD
    gradient_BLD = jax.grad(total)(start_BLD + alphas_B[:, None, None] * difference_BLD)
    return (x_BLD * gradient_BLD).sum(axis=2), (difference_BLD * gradient_BLD).sum(axis=2)


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _values(model, value, baseline, params, batch, is_input):
    ends = _ends_of_path(model, baseline, params, batch)
    point_BLD = jnp.where(is_input, ends[1], ends[0])
    return value(WithEmbeddedInputs(model, lambda _: point_BLD), params, batch)
