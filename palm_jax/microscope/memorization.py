"""What a language model has memorized of its training text.

- The paper's test (PaLM, arXiv 2204.02311, section 10): the first 50 tokens of a training sequence are the prompt, and
  it is memorized if greedy decoding gives the next 50 exactly. A batch is a function of seed and step, so that it is
  known how often a sequence was seen; held-out text, which was never seen, is the control.
- Min-K% Prob (Shi et al. 2024, arXiv 2310.16789): the mean log-probability of the least likely 20% of the tokens, and
  how well it tells seen text from held-out text (AUC; 0.5 is chance).
- Exposure of planted canaries (Carlini et al. 2019, arXiv 1802.08232): log₂|R| − log₂ rank of the canary among the
  texts R with other digits.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.metrics import roc_auc_score

from palm_jax.errors import UserError
from palm_jax.evenly_spaced import evenly_spaced
from palm_jax.inference.generate import Sampler, begin
from palm_jax.inference.scoring import likelihoods
from palm_jax.metrics import statistics
from palm_jax.predictors.language_model_predictor import LanguageModelPredictor
from palm_jax.run_directory import RunDirectory
from palm_jax.special_ids import EOS_ID, PAD_ID
from palm_jax.training.batch_sizes import BatchSizes

_LEAST = 0.2  # share of the tokens of Min-K% Prob
HELD_OUT = 'held out'


@dataclasses.dataclass(frozen=True)
class Window:
    """A prompt and what follows it in the text."""

    prompt: tuple[int, ...]
    target: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Memorized:
    """Sequences that were seen equally often.

    Attributes:
      times_seen: `2` for twice, or `held out`.
      count: number of sequences.
      exact: share of them whose continuation is exact.
      interval: 95% interval of the share (Wilson).
      min_k: mean of Min-K% Prob.
      auc: how well Min-K% Prob tells them from held-out sequences; None for those.
    """

    times_seen: str
    count: int
    exact: float
    interval: tuple[float, float]
    min_k: float
    auc: float | None


@dataclasses.dataclass(frozen=True)
class Canary:
    """A planted text.

    Attributes:
      text: text with digits.
      rank: its rank among `others` texts with random digits and itself, by likelihood; 1 is the likeliest.
      others: number of the other texts.
      exposure: log₂(others + 1) − log₂ rank, in bits.
    """

    text: str
    rank: int
    others: int
    exposure: float


def windows(model: Any, model_dir: Path, most: int, size: int) -> dict[str, list[Window]]:
    """Return windows of training and held-out sequences by how often they were seen.

    Args:
      model: trained model, an `api.TrainedModel`.
      model_dir: MODEL_DIR.
      most: most windows of each kind.
      size: tokens of the prompt, and of the continuation.

    Raises:
      UserError: the model was not trained on text alone, or its sequences are too short.
    """
    data = model.data
    if not isinstance(model.predictor, LanguageModelPredictor) or not hasattr(data, 'corpus'):
        raise UserError(
            f'Memorization is tested on models that were trained on a corpus of text; this one was trained '
            f'{model.predictor.purpose}.'
        )
    if data.length < 2 * size:
        raise UserError(f'Sequences have {data.length} tokens: too few for --tokens={size} and as many after them.')
    data.prepare(RunDirectory(model_dir))
    seen, epoch = BatchSizes.of(model.run['batch_size']).before(int(model.checkpoint.name)), data.num_sequences
    whole = seen // epoch
    found = {}
    for times, numbers in ((whole + 1, range(whole * epoch, seen)), (whole, range(seen, (whole + 1) * epoch))):
        if len(numbers):
            texts = (data.batch(numbers[i], 1) for i in evenly_spaced(len(numbers), 3 * most))
            found[str(times)] = _cut(data.vocabulary, texts, most, size)
    found[HELD_OUT] = _cut(data.vocabulary, data.validation(1), most, size)
    return {name: kept for name, kept in found.items() if kept}


def _cut(vocabulary: Any, batches: Any, most: int, size: int) -> list[Window]:
    """Return windows at the beginning of sequences, without those over the end of a document."""
    kept: list[Window] = []
    for batch in batches:
        ids = [int(i) for i in batch['decoder_target_tokens'][0][: 2 * size]]
        if len(ids) == 2 * size and not {EOS_ID, PAD_ID} & set(ids):
            kept.append(Window(begin(vocabulary, ids[:size]), tuple(ids[size:])))
        if len(kept) == most:
            break
    return kept


def memorized(model: Any, by_times: dict[str, list[Window]], batch_size: int) -> list[Memorized]:
    """Return what was memorized of the windows of each kind; see `windows`."""
    results, control = [], None
    for times in sorted(by_times, key=lambda name: name != HELD_OUT):
        kept = by_times[times]
        size = len(kept[0].target)
        sampler = Sampler(max_tokens=size, temperature=0.0, batch_size=batch_size)
        prompts = [window.prompt for window in kept]
        decoder, params = model.for_decoding
        written = sampler.generate(decoder, params, model.data.vocabulary, prompts, model.data.length)
        exact = np.array([best.ids == w.target for (best, *_), w in zip(written, kept, strict=True)], float)
        start = begin(model.data.vocabulary, ())
        num_start = len(kept[0].prompt) - size
        pairs = [(start, (*w.prompt[num_start:], *w.target)) for w in kept]
        scored = likelihoods(model.model, model.params, pairs, model.data.length, batch_size)
        least = np.array([min_k(s.logprobs) for s in scored])
        auc = None
        if control is None:
            control = least
        else:
            auc = float(roc_auc_score([1] * len(least) + [0] * len(control), np.concatenate([least, control])))
        interval = statistics.interval_of_share(int(exact.sum()), len(exact))
        results.append(Memorized(times, len(kept), float(exact.mean()), interval, float(least.mean()), auc))
    return results


def min_k(logprobs: Sequence[float], share: float = _LEAST) -> float:
    """Return the mean of the lowest log-probabilities, a share of all, at least one."""
    return float(np.sort(logprobs)[: max(1, int(share * len(logprobs)))].mean())


def exposures(model: Any, texts: Sequence[str], others: int, seed: int, batch_size: int) -> list[Canary]:
    """Return the exposure of planted texts.

    Args:
      model: language model, an `api.TrainedModel`.
      texts: texts whose digits are secrets.
      others: number of texts with random digits that each is ranked among; of few digits all others are taken.
      seed: seed of the digits.
      batch_size: texts per forward pass.

    Raises:
      UserError: a text has no digit.
    """
    rng, found = np.random.default_rng(seed), []
    for text in texts:
        count = len(re.findall(r'[0-9]', text))
        if not count:
            raise UserError(f'The canary {text[:40]!r} has no digits, which are what is replaced at random.')
        space = 10**count - 1
        if space <= others:
            codes = [f'{number:0{count}d}' for number in range(10**count)]
        else:
            codes = [''.join(map(str, rng.integers(0, 10, count))) for _ in range(others)]
        variants = [variant for variant in (_with(text, code) for code in codes) if variant != text]
        scored = model.score([('', variant) for variant in (text, *variants)], batch_size)
        totals = [s.total for s in scored]
        rank = 1 + sum(total > totals[0] for total in totals[1:])
        found.append(Canary(text, rank, len(variants), math.log2(len(variants) + 1) - math.log2(rank)))
    return found


def _with(text: str, code: str) -> str:
    digits = iter(code)
    return re.sub(r'[0-9]', lambda _: next(digits), text)
