"""Held-out inputs with their labels, and what a model answers, for each kind of task."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from palm_jax.errors import UserError
from palm_jax.evenly_spaced import evenly_spaced
from palm_jax.labels import scoring
from palm_jax.metrics import entities
from palm_jax.metrics.comparison import ACCURACY
from palm_jax.predictors.generator import Generator
from palm_jax.predictors.label_predictor import LabelPredictor
from palm_jax.predictors.tag_predictor import TagPredictor


@dataclasses.dataclass(frozen=True)
class Case:
    """A held-out input: its texts in order, and the right answer.

    Attributes:
      texts: text or both texts of a pair, words of a sentence, or turns of a dialogue.
      label: label, tags, or correct answers.
      source: example of the data, which `answers` may need.
    """

    texts: tuple[str, ...]
    label: Any
    source: Any = None


@dataclasses.dataclass(frozen=True)
class Answers:
    """What a model answers.

    Attributes:
      values: an answer per case; answers that are equal are the same answer.
      scores: how right each is, higher is better.
      metric: name of the mean score.
      mean_error: mean absolute error of numbers over all cases; 0 for other answers.
    """

    values: list[Any]
    scores: np.ndarray
    metric: str
    mean_error: float = 0.0

    def of(self, rows: Sequence[int]) -> Answers:
        """Return the answers to some of the cases."""
        return dataclasses.replace(self, values=[self.values[i] for i in rows], scores=self.scores[list(rows)])


def cases(model: Any, otherwise: str) -> list[Case]:
    """Return the held-out examples of a run.

    Args:
      model: trained model, an `api.TrainedModel`.
      otherwise: what to say of a run that has no examples with a right answer, after `This model was trained ...: `.

    Raises:
      UserError: the run has no examples with a right answer.
    """
    examples: Callable | None = getattr(model.data, 'examples', None)
    if examples is None or not isinstance(model.predictor, LabelPredictor | TagPredictor | Generator):
        raise UserError(f'This model was trained {model.predictor.purpose}: {otherwise}')
    return [_case(model, example) for example in examples('validation')]


def cases_of_files(model: Any, files: str, binding: str) -> list[Case]:
    """Return the examples of other files, in the form of the run's own.

    Args:
      model: trained model, an `api.TrainedModel`.
      files: path or glob.
      binding: flag that names the files, for messages.

    Raises:
      UserError: an example is unusable, or has a label that the model does not have.
    """
    return [_case(model, example) for example in model.data.further_examples(files, binding)]


def spread(found: Sequence[Case], most: int) -> list[Case]:
    """Return at most this many cases, spread evenly."""
    return [found[i] for i in evenly_spaced(len(found), most)]


def same_label(model: Any, first: Case, second: Case) -> bool:
    """Return whether two cases have the same right answer."""
    if not isinstance(model.predictor, LabelPredictor):
        return first.label == second.label
    kind = model.data.table.kind
    return scoring.score(kind, first.label, second.label) == (1 if kind.has_classes else 0)


def _case(model: Any, example: Any) -> Case:
    if isinstance(model.predictor, LabelPredictor):
        return Case(example.texts, example.label)
    if isinstance(model.predictor, TagPredictor):
        return Case(tuple(example.words), tuple(example.tags))
    first = next(number for number, turn in enumerate(example.turns) if turn.learned)
    before = example.turns[:first]
    return Case(tuple(turn.text for turn in before), example.references or (example.turns[first].text,), before)


def changes_words_alone(model: Any) -> bool:
    """Return whether only the words of a text may be changed, because each has a tag."""
    return isinstance(model.predictor, TagPredictor)


def answers(model: Any, asked: Sequence[Case], batch_size: int) -> Answers:
    """Return what a model answers to cases, and how right it is."""
    if isinstance(model.predictor, LabelPredictor):
        return _labels(model, asked, batch_size)
    if isinstance(model.predictor, TagPredictor):
        return _tags(model, asked, batch_size)
    assert isinstance(model.predictor, Generator)
    prompts = [
        model.data.prompt_ids([t._replace(text=text) for t, text in zip(c.source, c.texts, strict=True)]) for c in asked
    ]
    texts = [best.text for best, *_ in model.predictor.complete_ids(model, prompts)]
    right = [_plain(text) in map(_plain, case.label) for text, case in zip(texts, asked, strict=True)]
    return Answers(texts, np.array(right, float), 'exact match')


def _labels(model: Any, asked: Sequence[Case], batch_size: int) -> Answers:
    kind = model.data.table.kind
    inputs = [case.texts[0] if len(case.texts) == 1 else case.texts for case in asked]
    found = [model.predictor.to_json(p)['predicted'] for p in model.predict(inputs, batch_size=batch_size)]
    scores = np.array([scoring.score(kind, p, case.label) for p, case in zip(found, asked, strict=True)])
    values = [tuple(sorted(p)) if isinstance(p, list) else p for p in found]
    if kind.has_classes:
        return Answers(values, scores, ACCURACY)
    return Answers(values, scores, 'mean absolute error', float(np.abs(scores).mean()))


def _tags(model: Any, asked: Sequence[Case], batch_size: int) -> Answers:
    """Entities by the numbers of their words, which a change of the words does not move."""
    values, right = [], []
    predicted = model.predict([list(case.texts) for case in asked], batch_size=batch_size)
    for case, found in zip(asked, predicted, strict=True):
        ends = np.cumsum([len(word) + len(model.data.separator) for word in case.texts])
        first_last = [np.searchsorted(ends, [e['start'], e['end'] - 1], 'right') for e in found]
        values.append(tuple((e['type'], int(i), int(j) + 1) for e, (i, j) in zip(found, first_last, strict=True)))
        right.append(values[-1] == tuple(tuple(entity) for entity in entities.decode(case.label)))
    return Answers(values, np.array(right, float), 'sentences with all entities right')


def _plain(text: str) -> str:
    return ' '.join(text.lower().split())
