"""The examples of a run's table in order of trouble, with near-duplicates and labels that are likely wrong."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from palm_jax.data.readers.splits import Split
from palm_jax.errors import UserError
from palm_jax.microscope import ranking
from palm_jax.predictors.head_scores import head_scores
from palm_jax.predictors.label_predictor import LabelPredictor
from palm_jax.predictors.predictor import purpose_of

Order = Literal['loss', 'gradient', 'disagreement']
Rows = list[tuple[str, ...]]
_WRONG, _DUPLICATES = 'Labels that are likely wrong', 'Near-duplicates'  # titles of tables
_MOST_PAIRS = 1000
_SHOWN = 5  # labels in a message


@dataclasses.dataclass(frozen=True)
class Example:
    """An example as the user knows it.

    Attributes:
      split: `train` or `validation`.
      location: file and line, or its number in the split.
      text: texts of the example.
      label: label in words; empty where there is none.
    """

    split: str
    location: str
    text: str
    label: str


@dataclasses.dataclass(frozen=True)
class Ranked:
    """What was found.

    Attributes:
      examples: examples of the split.
      by: name of the score.
      scores: score of each example, or of each row where examples become several.
      duplicates: near-duplicates: two examples and their similarity.
      wrong: numbers of examples whose label is likely wrong, with the label and what the model would say.
      reasons: why lists are empty, by the title of their table.
    """

    examples: list[Example]
    by: str
    scores: np.ndarray
    duplicates: list[tuple[Example, Example, float]]
    wrong: list[tuple[int, str, str, float]]
    reasons: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def order(self) -> list[int]:
        """Return the numbers of the examples, the most troublesome first."""
        return np.argsort(-self.scores, kind='stable').tolist()

    def tables(self) -> dict[str, Rows]:
        """Return tables below a header, by title."""
        ordered = [(f'{self.scores[i]:.4f}', *_cells(self.examples[i])) for i in self.order()]
        wrong = [
            (f'{p:.4f}', label, other, self.examples[i].text, self.examples[i].location)
            for i, label, other, p in self.wrong
        ]
        pairs = [
            (
                f'{s:.3f}',
                f'{a.split}: {a.text}',
                f'{b.split}: {b.text}',
                a.label,
                b.label,
                f'{a.location} / {b.location}',
            )
            for a, b, s in self.duplicates
        ]
        return {
            f'By {self.by}': [(self.by, 'label', 'text', 'where'), *ordered],
            _WRONG: [('p(label)', 'label', 'model says', 'text', 'where'), *wrong],
            _DUPLICATES: [('similarity', 'text', 'other text', 'label', 'other label', 'where'), *pairs],
        }

    def to_json(self) -> dict[str, Any]:
        """Return everything as JSON."""
        return {
            'examples': [dataclasses.asdict(self.examples[i]) | {self.by: float(self.scores[i])} for i in self.order()],
            'likely_wrong': [
                dataclasses.asdict(self.examples[i]) | {'predicted': other, 'probability_of_label': p}
                for i, _, other, p in self.wrong
            ],
            'near_duplicates': [
                {'similarity': s, 'first': dataclasses.asdict(a), 'second': dataclasses.asdict(b)}
                for a, b, s in self.duplicates
            ],
            'reasons': dict(self.reasons),
        }


def rank(
    model: Any, split: Split, by: Order, others: Sequence[Any] = (), similarity: float = 0.8, batch_size: int = 32
) -> Ranked:
    """Rank the examples of a split.

    Args:
      model: trained model, an `api.TrainedModel`.
      split: part of the data.
      by: score that orders the examples.
      others: further models, whose answers are compared for `disagreement`.
      similarity: least similarity of near-duplicates.
      batch_size: examples per call.

    Raises:
      UserError: the run has no examples, or they are packed into rows; the others have other labels, see
        `check_others`.
    """
    if by == 'disagreement':
        check_others(model, others)
    find: Callable | None = getattr(model.data, 'examples', None)
    if find is None:
        raise UserError(
            f'This run was trained {model.predictor.purpose}, from a corpus without examples. Look at a batch of it '
            'with palm-jax inspect step, or rank the examples of a run that was fine-tuned on a table.'
        )
    parts: dict[Split, list[Example]] = {s: _described(model, s, find(s)) for s in ('train', 'validation')}
    examples, features = parts[split], model.data.encode(split)
    rows = len(next(iter(features.values())))
    if rows != len(examples):
        raise UserError(
            f'The {len(examples):,} examples are {rows:,} rows of tokens: packed, or dialogues in several parts. Their '
            'losses cannot be separated; load the run with --gin.PACK=False and longer TASK_FEATURE_LENGTHS.'
        )
    if by == 'disagreement':
        scores = _disagreement([model, *others], find(split), batch_size)
    else:
        scores = ranking.losses(model, features, by == 'gradient', batch_size)[:, 1 if by == 'gradient' else 0]
    duplicates, wrong = _duplicates(parts, similarity), None
    if _has_one_class(model):
        wrong = _wrong(model, features, rows, batch_size)
    reasons = {} if wrong else {_WRONG: _why_none_is_wrong(split, wrong is not None)}
    if not duplicates:
        reasons[_DUPLICATES] = f'none: no two texts have a similarity of at least {similarity:g}.'
    return Ranked(examples, by, scores, duplicates, wrong or [], reasons)


def _cells(example: Example) -> tuple[str, str, str]:
    return example.label, example.text, example.location


def _described(model: Any, split: str, examples: Sequence[Any]) -> list[Example]:
    found = []
    for number, example in enumerate(examples, 1):
        *texts, last = model.data.texts(example)
        label = getattr(example, 'label', None)
        if label is None and hasattr(example, 'tags'):
            label = ' '.join(example.tags)
        if label is None and hasattr(example, 'turns'):
            label, last = last, ''  # the answer
        text = ' / '.join(t for t in (*texts, last) if t)
        label = '|'.join(label) if isinstance(label, tuple) else f'{label}'
        found.append(Example(split, getattr(example, 'location', '') or f'example {number}', text, label))
    return found


def _duplicates(parts: dict[Split, list[Example]], least: float) -> list[tuple[Example, Example, float]]:
    """Return near-duplicates within and across the parts."""
    everything = [example for part in parts.values() for example in part]
    pairs = ranking.near_duplicates([example.text for example in everything], least)[:_MOST_PAIRS]
    return [(everything[p.first], everything[p.second], p.similarity) for p in pairs]


def _has_one_class(model: Any) -> bool:
    kind = getattr(getattr(model.data, 'table', None), 'kind', None)
    return isinstance(model.predictor, LabelPredictor) and kind is not None and kind.has_classes and kind.is_exclusive


def _why_none_is_wrong(split: Split, has_one_class: bool) -> str:
    if not has_one_class:
        return 'not looked for: they are found from the probabilities of a model with one class per text.'
    reason = 'none: the model gives no other class as much probability as it gives on average where that is the label.'
    if split == 'validation':
        return reason
    return f'{reason} It has learned these labels; one that has not judges better, see --split=validation.'


def _wrong(model: Any, features: Any, count: int, batch_size: int) -> list[tuple[int, str, str, float]]:
    """Return labels that are likely wrong, of a model with one class per text."""
    kind = model.data.table.kind
    tokens = {name: features[name] for name in features if name.startswith('decoder_')}
    scores = np.stack(head_scores(model.model, model.params, tokens, count, batch_size))
    p_EC, names, labels = kind.probabilities(scores), model.data.labels, np.asarray(features['labels'])
    found = ranking.likely_wrong(p_EC, labels)
    return [(i, names[labels[i]], names[int(p_EC[i].argmax())], float(p_EC[i, labels[i]])) for i in found]


def check_others(model: Any, others: Sequence[Any]) -> None:
    """Refuse models whose labels cannot be compared.

    Args:
      model: trained model, an `api.TrainedModel`.
      others: further models.

    Raises:
      UserError: a model does not label texts, or not with the same labels, or is one of the others again.
    """
    for each in (model, *others):
        if not isinstance(each.predictor, LabelPredictor) or not each.predictor.label_kind.has_classes:
            what = 'this model' if each is model else f'--other={each.config.parent}'
            raise UserError(f'--by=disagreement compares labels; {what} was trained {purpose_of(each)}.')
    for number, other in enumerate(others):
        name = f'--other={other.config.parent}'
        if _checkpoint(other) in map(_checkpoint, (model, *others[:number])):
            what = 'this model itself' if _checkpoint(other) == _checkpoint(model) else 'named twice'
            raise UserError(
                f'{name} is {what}, and a model always agrees with itself. Name another run, such as one with another '
                '--gin.SEED.'
            )
        if other.predictor.reads_pairs(other) != model.predictor.reads_pairs(model):
            pairs, single = 'pairs of texts', 'single texts'
            reads, needed = (pairs, single) if other.predictor.reads_pairs(other) else (single, pairs)
            raise UserError(f'{name} reads {reads}, and this model {needed}: name runs on tables of the same form.')
        if set(other.data.labels) != set(model.data.labels):
            raise UserError(
                f'{name} has the labels {", ".join(other.data.labels[:_SHOWN])}, and this model '
                f'{", ".join(model.data.labels[:_SHOWN])}: name runs with the same labels.'
            )


def _checkpoint(model: Any) -> Path:
    return Path(model.checkpoint).resolve()


def _disagreement(models: Sequence[Any], examples: Sequence[Any], batch_size: int) -> np.ndarray:
    inputs = [e.text if e.second_text is None else (e.text, e.second_text) for e in examples]
    answers = []
    for model in models:
        found = [model.predictor.to_json(p)['predicted'] for p in model.predict(inputs, batch_size=batch_size)]
        answers.append([tuple(sorted(p)) if isinstance(p, list) else p for p in found])
    return ranking.disagreement(answers)
