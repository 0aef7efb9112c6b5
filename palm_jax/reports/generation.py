"""The report of a model that generates text from text: answers, translations, replies."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection, Mapping, Sequence
from typing import Annotated, Any, Literal

import numpy as np

from palm_jax.bounds import AtLeast, NotEmpty, checked
from palm_jax.errors import UserError, closest
from palm_jax.inference.generate import Decoder, Sampler
from palm_jax.metrics import statistics
from palm_jax.metrics import texts as text_metrics
from palm_jax.metrics.text_baselines import Baseline
from palm_jax.metrics.texts import OfRows
from palm_jax.reports.report import Measurements, RunReporter, available, measurements_of, table_of_errors
from palm_jax.training.result import EvaluationInput

Tokenizer = Literal['13a', 'zh', 'char', 'intl', 'none']
_CORPUS_BOOTSTRAPS = 200  # BLEU and chrF are computed again for each


@checked
@dataclasses.dataclass(frozen=True)
class GenerationReporter(RunReporter):
    """Answers held-out prompts, and measures the answers.

    Attributes:
      metrics: names of text metrics, see `metrics.texts`; the first one's first number is the main metric.
      sampler: decoding of the answers; greedy by default.
      examples: number of prompts that are answered, evenly spread over the held-out part.
      tokenizer: SacreBLEU's tokenizer: `13a` for most languages, `zh` for Chinese, `char` for single characters,
        `intl` for a rule by Unicode's classes, `none` to split at blanks only.
    """

    metrics: Annotated[Sequence[str], NotEmpty()] = ('bleu', 'chrf', 'rouge', 'squad')
    sampler: Decoder = Sampler(temperature=0.0)
    examples: Annotated[int, AtLeast(1)] = 200
    tokenizer: Tokenizer = '13a'

    def __post_init__(self) -> None:
        known = text_metrics.METRICS
        for name in self.metrics:
            if name not in known:
                raise UserError(f'METRICS: {name!r} is unknown.{closest(name, known)} Known: {", ".join(known)}.')

    def metric_names(self, data: Any) -> Collection[str]:
        """Return the perplexity and the names of the text metrics."""
        del data
        return ('perplexity', *text_metrics.compute(self.metrics, ['a'], [('a',)], self.tokenizer))

    def measure(self, inputs: EvaluationInput) -> Measurements:
        """Generate the answers, and compute the perplexity of the whole held-out part."""
        data, loss = inputs.data, inputs.evaluate()['loss'].value()
        prompts = data.prompts()
        chosen = np.unique(np.linspace(0, len(prompts) - 1, min(self.examples, len(prompts))).round().astype(int))
        prompts = [prompts[i] for i in chosen]
        sampler = dataclasses.replace(self.sampler, max_tokens=min(self.sampler.max_tokens, data.target_length))
        generated = sampler.stopping_at(data.stop).generate(
            inputs.model,
            inputs.params,
            data.vocabulary,
            [prompt.ids for prompt in prompts],
            data.length,
            data.bidirectional,
        )
        texts = [best.text for best, *_ in generated]
        references = [prompt.references for prompt in prompts]
        of_rows = self._compute(texts, references, self.metrics)
        everything, main = np.arange(len(texts)), next(iter(of_rows))
        bootstraps = _CORPUS_BOOTSTRAPS if main in ('bleu', 'chrf') else statistics.BOOTSTRAPS
        by_text, _ = _by_text(of_rows, len(texts))
        predictions = [
            {'text': prompt.text, 'label': list(prompt.references), 'predicted': text, 'score': round(score, 4)}
            for prompt, text, score in zip(prompts, texts, by_text, strict=True)
        ]
        badness = np.array([-np.inf if score >= 100 else -score for score in by_text])
        values = {name: function(everything) for name, function in of_rows.items()}
        return measurements_of(
            loss,
            values | {'perplexity': math.exp(min(loss, 700))},
            statistics.interval(len(texts), of_rows[main], bootstraps),
            predictions,
            available(lambda: self._nearest(data, prompts)),
            table_of_errors('The worst answers', predictions, badness),
            text=''.join(map(_shown, predictions[:: max(1, len(predictions) // 4)][:4])),
        )

    def scores(self, texts: Sequence[str], references: Sequence[Sequence[str]]) -> tuple[np.ndarray, str]:
        """Return the main metric of each text, float64 [E] from 0 to 100, and the name of the mean."""
        by_text, main = _by_text(self._compute(texts, references, self.metrics[:1]), len(texts))
        return np.array(by_text), f'mean {main} per text'

    def _nearest(self, data: Any, prompts: Sequence[Any]) -> list[Baseline]:
        """Return what the main metric is of the targets of the nearest training examples."""
        answers, references = data.nearest_answers(tuple(prompts)), [prompt.references for prompt in prompts]
        metric, function = next(iter(self._compute(answers, references, self.metrics[:1]).items()))
        value = function(np.arange(len(prompts)))
        return [Baseline('the target of the nearest training example', metric, value, best=100.0)]

    def _compute(
        self, texts: Sequence[str], references: Sequence[Sequence[str]], names: Sequence[str]
    ) -> dict[str, OfRows]:
        return text_metrics.compute(names, texts, references, self.tokenizer)


def _by_text(of_rows: Mapping[str, OfRows], count: int) -> tuple[list[float], str]:
    """Return the first metric of each text, and its name."""
    main = next(iter(of_rows))
    return [of_rows[main](np.array([i])) for i in range(count)], main


def _shown(row: Mapping[str, Any]) -> str:
    lines = (('---', row['text']), ('    generated', row['predicted']), ('    expected ', row['label'][0]))
    return ''.join(f'{title} {_short(text)}\n' for title, text in lines)


def _short(text: str, most: int = 100) -> str:
    text = ' '.join(text.split())
    return text if len(text) <= most else f'{text[: most - 1]}…'
