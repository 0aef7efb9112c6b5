"""Infilling: spans of a text are cut out, and a model that has learned to denoise fills them in again."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from palm_jax.api.trained_model import TrainedModel
from palm_jax.data.pretraining.objectives.sequences import mode_ids
from palm_jax.data.pretraining.objectives.span_corruption import SpanCorruption, with_sentinels
from palm_jax.errors import UserError
from palm_jax.inference.generate import begin
from palm_jax.special_ids import EOS_ID
from palm_jax.synthesis.maker import Maker, Sampling, of_run


@dataclasses.dataclass(frozen=True)
class Infilling(Maker):
    """Cuts spans out of a text as span corruption does, and takes what the model generates for them.

    The model was trained by an objective with span corruption (T5's, UL2's), whose sentinels mark the spans. A text of
    a single token, or one that does not fit, stays as it is.

    Attributes:
      model: model of the run.
      sampling: random choices.
      rate: share of the tokens that are filled in.
      mean_span: mean length of a span in tokens.
    """

    model: TrainedModel
    sampling: Sampling = Sampling()
    rate: float = 0.3
    mean_span: float = 3.0

    name = 'infilling'

    def __post_init__(self) -> None:
        if not self._denoisers:
            raise UserError(
                f'--infill={self.model.config.parent} has not learned to fill spans in: name a run that was trained '
                'with --gin_file=gin/objectives/span_corruption.gin or ul2.gin.'
            )

    def make(self, rows, texts, copy, first):
        """Return the texts with other spans."""
        del rows
        data = self.model.data
        encoded = data.vocabulary.encode_all(list(texts))
        made, prompts, masks = list(texts), list[tuple[int, ...]](), list[tuple[int, np.ndarray]]()
        for number, ids in enumerate(encoded):
            mask = self._mask(len(ids), first + number, copy) if len(ids) > 1 else np.zeros(len(ids), bool)
            prompt = self._prompt(np.array(ids, np.int32), mask)
            if mask.any() and len(prompt) + mask.sum() + 2 < data.length:
                prompts.append(prompt)
                masks.append((number, mask))
        room = max((2 * int(mask.sum()) + _num_spans(mask) + 1 for _, mask in masks), default=1)
        sampler = dataclasses.replace(self.sampling.sampler(self.model, copy), max_tokens=room)
        completions = sampler.generate(
            *self.model.for_decoding, data.vocabulary, prompts, data.length, bidirectional=True, first=first
        ) if prompts else []  # fmt: skip
        for (number, mask), (best, *_) in zip(masks, completions, strict=True):
            made[number] = self._filled(encoded[number], mask, best.ids)
        return made

    def depends_on(self):
        """Return the run by content, the random choices, and how much is cut out."""
        return of_run(self.model) | dataclasses.asdict(self.sampling) | {'rate': self.rate, 'span': self.mean_span}

    @property
    def _denoisers(self) -> list[SpanCorruption]:
        """The objectives of the run that cut spans out, the nearest to `mean_span` first."""
        found = [o for o in getattr(self.model.data, 'objective', ()) if isinstance(o, SpanCorruption)]
        return sorted(found, key=lambda o: (abs(o.mean_span - self.mean_span), abs(o.rate - self.rate)))

    def _mask(self, count: int, row: int, copy: int) -> np.ndarray:
        """Return which tokens are cut out, bool [count]."""
        objective = dataclasses.replace(self._denoisers[0], rate=self.rate, mean_span=self.mean_span)
        return objective.noise(count, self.sampling.rng(row, copy))

    def _prompt(self, ids: np.ndarray, mask: np.ndarray) -> tuple[int, ...]:
        vocabulary = self.model.data.vocabulary
        sentinels = [vocabulary.sentinel(i) for i in range(_num_spans(mask))]
        mode = mode_ids(self._denoisers[0].mode, vocabulary)
        return begin(vocabulary, [*mode, *with_sentinels(ids, mask, sentinels).tolist(), EOS_ID])

    def _filled(self, ids: Sequence[int], mask: np.ndarray, generated: Sequence[int]) -> str:
        """Return the text with the generated spans; what has none keeps its own."""
        vocabulary = self.model.data.vocabulary
        number_of = {vocabulary.sentinel(i): i for i in range(_num_spans(mask))}
        fills: dict[int, list[int]] = {}
        current: list[int] | None = None
        for token in generated:
            if token in number_of and number_of[token] == len(fills):
                current = fills[len(fills)] = []
            elif token >= vocabulary.text.size:  # another special token: what follows belongs to no span
                current = None
            elif current is not None:
                current.append(token)
        result: list[int] = []
        span = -1
        for place, token in enumerate(ids):
            if not mask[place]:
                result.append(token)
                continue
            if is_first := not (place and mask[place - 1]):
                span += 1
            if not fills.get(span):
                result.append(token)
            elif is_first:
                result += fills[span]
        return vocabulary.decode(result)


def _num_spans(mask: np.ndarray) -> int:
    return int((mask & ~np.r_[False, mask[:-1]]).sum()) if len(mask) else 0
