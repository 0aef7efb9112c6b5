"""A batch of texts to label next, by one of several strategies, with a score and a reason for each."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import numpy as np

from palm_jax.bounds import AtLeast, Rate, checked
from palm_jax.errors import UserError
from palm_jax.predictors.label_predictor import LabelPredictor
from palm_jax.predictors.tag_predictor import TagPredictor
from palm_jax.selection import diversity, outputs, uncertainty
from palm_jax.selection.pool import Candidate, Columns, Input, csv_text
from palm_jax.training.progress import track

Strategy = Literal['entropy', 'margin', 'least_confidence', 'bald', 'coreset', 'badge', 'random']
# Strategy: (its score, the reason as a format of the score and of 1 − score).
_OF_PROBABILITIES = {
    'entropy': (uncertainty.entropy, 'entropy {0:.3g} nats'),
    'margin': (uncertainty.margin, 'margin {1:.3g} between the two likeliest'),
    'least_confidence': (uncertainty.least_confidence, 'probability {1:.3g} of the likeliest'),
}
_SHOWN = 3  # classes or entities of a reason


@checked
@dataclasses.dataclass(frozen=True)
class Settings:
    """How texts are chosen.

    Attributes:
      strategy: see `uncertainty` and `diversity`; `random` is the baseline.
      count: number of texts.
      num_samples: dropout masks of BALD.
      dropout_rate: dropout rate of BALD; None is that of the run, and 0.1 where the run has no dropout.
      seed: seed of whatever is random.
      batch_size: texts per forward pass.
    """

    strategy: Strategy = 'entropy'
    count: Annotated[int, AtLeast(1)] = 50
    num_samples: Annotated[int, AtLeast(2)] = 10
    dropout_rate: Rate | None = None
    seed: int = 0
    batch_size: Annotated[int, AtLeast(1)] = 32


@dataclasses.dataclass(frozen=True)
class Choice:
    """A text that is worth a label.

    Attributes:
      candidate: text.
      score: score of the strategy; None of a random choice.
      reason: the score in words, with what the model predicts.
    """

    candidate: Candidate
    score: float | None
    reason: str


def check_kind(model: Any, strategy: Strategy) -> None:
    """Refuse a model that a strategy cannot ask.

    Raises:
      UserError: the model does not label texts, or not in the way that the strategy needs.
    """
    if not isinstance(model.predictor, LabelPredictor | TagPredictor):
        raise UserError(
            f'palm-jax select is for models that label texts or tag words; this one was trained '
            f'{model.predictor.purpose}.'
        )
    if strategy not in ('coreset', 'random') and not outputs.has_probabilities(model):
        raise UserError(
            f'--strategy={strategy} needs the probabilities of classes, which this model does not predict. Choose '
            'coreset or random.'
        )
    if isinstance(model.predictor, TagPredictor) and strategy == 'badge':
        raise UserError(
            '--strategy=badge: the model tags words, and BADGE needs one label for each text. Choose entropy, margin, '
            'least_confidence, bald, coreset or random.'
        )


def choose(
    model: Any, candidates: Sequence[Candidate], labelled: Sequence[Input], settings: Settings = Settings()
) -> list[Choice]:
    """Choose the texts to label next, the most worthy first; all if there are no more than `count`.

    Args:
      model: trained model, an `api.TrainedModel`.
      candidates: texts without a label, see `pool.read`.
      labelled: texts that have a label, from which a core-set keeps its distance.
      settings: strategy, number of texts and seed.

    Raises:
      UserError: see `check_kind`.
    """
    check_kind(model, settings.strategy)
    count, rng = min(settings.count, len(candidates)), np.random.default_rng(settings.seed)
    inputs, size, bar = [c.text for c in candidates], settings.batch_size, functools.partial(track, **_BAR)
    if settings.strategy == 'random':
        found = diversity.Chosen(rng.permutation(len(inputs))[:count].tolist(), [math.nan] * count)
        words = ['drawn at random'] * count
    elif settings.strategy == 'coreset':
        centers, embeddings = (outputs.embedded(model, texts, size) for texts in (labelled, inputs))
        found = diversity.k_center_greedy(embeddings, centers, count, rng, bar)
        words = ['distance {0:.3g} from the nearest labelled or chosen text'] * count
        if not labelled:
            words[0] = 'the first text, drawn at random'
    elif settings.strategy == 'badge':
        found = diversity.k_means_plus_plus(*outputs.gradients(model, inputs, size), count, rng, bar)
        words = [
            'gradient of norm {0:.3g}',
            *['gradient at distance {0:.3g} from the nearest chosen one'] * (count - 1),
        ]
    else:
        scores, word = _uncertain(model, inputs, settings)
        rows = np.argsort(-scores, kind='stable')[:count]
        found, words = diversity.Chosen(rows.tolist(), scores[rows].tolist()), [word] * count
    chosen = [candidates[i] for i in found.rows]
    predictions = model.predict([c.text for c in chosen], batch_size=size)
    return [
        Choice(
            c, None if math.isnan(score) else score, f'{word.format(score, 1 - score)}; predicted: {_shown(prediction)}'
        )
        for c, score, word, prediction in zip(chosen, found.distances, words, predictions, strict=True)
    ]


def as_csv(columns: Columns, choices: Sequence[Choice]) -> str:
    """Return choices as a table with the columns of the training table, a score and a reason."""
    rows = [
        [*c.candidate.texts, c.candidate.label, '' if c.score is None else f'{c.score:.6g}', c.reason] for c in choices
    ]
    return csv_text([columns.names, *rows])


_BAR: dict[str, Any] = {'description': 'choosing', 'unit': ' texts'}


def _uncertain(model: Any, inputs: Sequence[Input], settings: Settings) -> tuple[np.ndarray, str]:
    """Return the uncertainty of each text, and how it is put in words."""
    is_exclusive = outputs.kind_of(model).is_exclusive
    mean = 'mean over words: ' if isinstance(model.predictor, TagPredictor) else ''
    if settings.strategy == 'bald':
        measure = functools.partial(uncertainty.bald, is_exclusive=is_exclusive)
        found = outputs.measured_with_dropout(
            model, inputs, measure, settings.num_samples, settings.dropout_rate, settings.seed, settings.batch_size
        )
        return found, f'{mean}mutual information {{0:.3g}} nats over {settings.num_samples} dropout masks'
    function, word = _OF_PROBABILITIES[settings.strategy]
    measure = functools.partial(function, is_exclusive=is_exclusive)
    return outputs.measured(model, inputs, measure, settings.batch_size), mean + word


def _shown(prediction: Any) -> str:
    """Return a prediction in a few words."""
    if isinstance(prediction, dict):
        return ', '.join(f'{name} {p:.2f}' for name, p in list(prediction.items())[:_SHOWN])
    if isinstance(prediction, list):
        entities = [f'{entity["text"]} ({entity["type"]})' for entity in prediction[:_SHOWN]]
        return ', '.join(entities) or 'no entities'
    return f'{prediction:.4g}'
