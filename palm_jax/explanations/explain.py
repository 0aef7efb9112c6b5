"""Explanations of outputs: attributions by several methods, and how faithful they are."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Annotated, Any

import numpy as np

from palm_jax.bounds import AtLeast, checked
from palm_jax.errors import UserError, closest
from palm_jax.explanations.attribution import METHODS, Attribution, attribute
from palm_jax.explanations.counterfactual import Counterfactual, counterfactual
from palm_jax.explanations.explainable import Explainable
from palm_jax.explanations.faithfulness import Faithfulness, faithfulness
from palm_jax.explanations.scorer import Baseline, Scorer
from palm_jax.explanations.words import Word


@checked
@dataclasses.dataclass(frozen=True)
class Settings:
    """How outputs are explained.

    Attributes:
      methods: names of methods, see `attribution`.
      steps: points of the quadrature of integrated gradients.
      baseline: what stands for an absent word in integrated gradients, see `Scorer`.
      num_random: number of random attributions that comprehensiveness and sufficiency are compared with; 0 computes
        neither.
      counterfactual_words: most words that are taken away to find a counterfactual; 0 looks for none.
      batch_size: rows per pass, see `Scorer`.
      seed: seed of the random attributions.
    """

    methods: Sequence[str] = METHODS
    steps: Annotated[int, AtLeast(1)] = 50
    baseline: Baseline = 'padding'
    num_random: Annotated[int, AtLeast(0)] = 0
    counterfactual_words: Annotated[int, AtLeast(0)] = 0
    batch_size: Annotated[int, AtLeast(1)] = 16
    seed: int = 0

    def __post_init__(self) -> None:
        for name in self.methods:
            if name not in METHODS:
                raise UserError(f'There is no method {name!r}.{closest(name, METHODS)} Methods: {", ".join(METHODS)}.')
        if not self.methods:
            raise UserError(f'No method is named; methods: {", ".join(METHODS)}.')


@dataclasses.dataclass(frozen=True)
class Explanation:
    """Why a model predicts a label, a number, a tag or an answer for an input.

    Attributes:
      input: number of the input.
      label: what is explained.
      unit: what `value` and the attributions are in: `log-odds`, `number` or `log-probability`.
      value: output for the input.
      probability: probability of the label, or geometric mean of the probabilities of an answer's tokens; None for
        numbers.
      words: words of the input.
      attributions: what each word contributes, by method.
      faithfulness: comprehensiveness and sufficiency by method and of `random`; empty if they were not asked for.
      counterfactual: fewest words without which the model would decide otherwise; None if there are none, or they were
        not asked for.
    """

    input: int
    label: str
    unit: str
    value: float
    probability: float | None
    words: tuple[Word, ...]
    attributions: dict[str, Attribution]
    faithfulness: dict[str, Faithfulness] = dataclasses.field(default_factory=dict)
    counterfactual: Counterfactual | None = None

    def ranked(self, method: str) -> list[tuple[str, float]]:
        """Return (word, contribution) by the size of the contribution, the largest first."""
        scores = self.attributions[method].words
        return [(self.words[i].text, float(scores[i])) for i in np.argsort(-np.abs(scores), kind='stable')]

    def to_json(self) -> dict[str, Any]:
        """Return the explanation as JSON."""
        return {
            'input': self.input,
            'label': self.label,
            'unit': self.unit,
            'value': self.value,
            'probability': self.probability,
            'words': [{'text': word.text, 'part': word.part, 'tokens': list(word.tokens)} for word in self.words],
            'attributions': {
                name: {
                    'words': found.words.tolist(),
                    'baseline_value': found.baseline_value,
                    'completeness_error': found.completeness_error,
                }
                for name, found in self.attributions.items()
            },
            'faithfulness': {name: found._asdict() for name, found in self.faithfulness.items()},
            'counterfactual': None
            if self.counterfactual is None
            else {
                'removed': list(self.counterfactual.removed),
                'words': [self.words[i].text for i in self.counterfactual.removed],
                'margin': self.counterfactual.value,
                'instead': self.counterfactual.instead,
            },
        }


def explain(
    model: Any, params: Any, rows: Sequence[Sequence[Explainable]], settings: Settings = Settings()
) -> list[Explanation]:
    """Return the explanations of inputs, in order.

    Args:
      model: model, with or without methods attached.
      params: parameters of the model.
      rows: what is to be explained for each input; all outputs of one kind.
      settings: how.
    """
    flat = [row for of_input in rows for row in of_input]
    if not flat:
        return []
    scorer = Scorer(model, params, settings.batch_size, settings.baseline)
    values = scorer.values(flat)
    found = {name: attribute(name, scorer, flat, values, settings.steps) for name in settings.methods}
    faithful: list[dict[str, Faithfulness]] = [{} for _ in flat]
    with_words = [i for i, row in enumerate(flat) if row.words] if settings.num_random else []
    if with_words:
        results = faithfulness(
            scorer,
            [flat[i] for i in with_words],
            values[with_words],
            {name: [found[name][i].words for i in with_words] for name in found},
            settings.num_random,
            settings.seed,
        )
        for i, result in zip(with_words, results, strict=True):
            faithful[i] = result
    others: list[Counterfactual | None] = [None] * len(flat)
    if settings.counterfactual_words:
        others = [counterfactual(scorer, row, settings.counterfactual_words) for row in flat]
    inputs = [number for number, of_input in enumerate(rows) for _ in of_input]
    return [
        Explanation(
            input=inputs[i],
            label=row.label,
            unit=row.output.unit,
            value=float(values[i]),
            probability=row.output.probability(float(values[i])),
            words=row.words,
            attributions={name: found[name][i] for name in found},
            faithfulness=faithful[i],
            counterfactual=others[i],
        )
        for i, row in enumerate(flat)
    ]
