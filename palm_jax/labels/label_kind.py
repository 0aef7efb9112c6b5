"""The interface of a kind of label; data, reports and predictors ask it, and none of them knows which kinds exist."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from palm_jax.errors import UserError, closest

Table = Sequence[Sequence[str]]  # the first row is the header
Label = str | tuple[str, ...]  # a text; where labels are not exclusive also the texts of a list
Encoded = np.ndarray | np.number  # a label as the loss reads it; NumPy scalars are arrays of shape []


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """Predictions for E held-out examples, compared with their labels.

    Attributes:
      metrics: values by name; the first is the main metric.
      interval: 95% bootstrap interval of the main metric; None where there is none, see `statistics.interval`.
      predictions: an object per example with `label`, `predicted` and, where there are classes, `probabilities`.
      badness: float [E], the size of each example's error; -inf if the prediction is right.
      tables: further tables for the report, by title.
      confusion: class ids of the labels and of the predictions, int [E] each, to be drawn as a confusion matrix; None
        where a label is not a single class.
      text: table for the terminal; empty where it would be too long.
    """

    metrics: Mapping[str, float]
    interval: tuple[float, float] | None
    predictions: Sequence[dict[str, Any]]
    badness: np.ndarray
    tables: Mapping[str, Table] = dataclasses.field(default_factory=dict)
    confusion: tuple[np.ndarray, np.ndarray] | None = None
    text: str = ''


@dataclasses.dataclass(frozen=True)
class Margin:
    """How far the scores of an example favour a label: scores[index] − log Σ exp(scores[against]).

    Attributes:
      label: name of the label.
      index: score that speaks for the label.
      against: scores that speak against it; without any the margin is scores[index].
      is_log_odds: whether the sigmoid of the margin is the label's probability; False for a number.
      is_of_decision: whether the largest of the scores against it counts instead of the log of their sum: the margin is
        then above 0 exactly where the label is the decision.
    """

    label: str
    index: int
    against: tuple[int, ...] = ()
    is_log_odds: bool = True
    is_of_decision: bool = False


class LabelKind(Protocol):
    """A kind of label: a frozen dataclass that gin builds.

    Letters: E examples, C classes, S scores per example (`num_scores`).

    Attributes:
      has_classes: whether labels name classes; False for labels that are numbers.
      is_exclusive: whether each example has exactly one class, encoded as int32 []. Only such labels can be balanced
        by class weights or by sampling.
    """

    has_classes: bool
    is_exclusive: bool

    def class_names(self, label: Label) -> list[str]:
        """Return the classes that a label names as the table has it."""

    def check(self, label: Label) -> None:
        """Raise UserError if a label can never be encoded, whichever classes exist."""

    def encode(self, label: Label, class_ids: Sequence[int], num_classes: int) -> Encoded:
        """Return a label as the loss reads it; `class_ids` are the ids of its `class_names`, of C in all."""

    def num_scores(self, num_classes: int) -> int:
        """Return S, the outputs that a head needs for C classes."""

    def describe(self, encoded: Encoded, names: Sequence[str]) -> Any:
        """Return an encoded label as JSON: a name, a list of names or a number."""

    def evaluate(self, scores_ES: np.ndarray, labels: np.ndarray, names: Sequence[str]) -> Evaluation:
        """Compare the scores of examples, float64 [E, S], with their encoded labels [E, ...]."""

    def combine(self, scores: Sequence[np.ndarray]) -> np.ndarray:
        """Return scores [E, S] whose prediction is the mean of the predictions of several models' scores."""

    def predict(self, scores_S: np.ndarray, names: Sequence[str]) -> Any:
        """Return the prediction for one example from its scores, as `model.predict` hands it out."""

    def margin(self, scores_S: np.ndarray, names: Sequence[str], label: str | None = None) -> Margin:
        """Return what an explanation of a label is about.

        Args:
          scores_S: scores of the example.
          names: names of the classes.
          label: name of the label; None is the predicted one.

        Raises:
          UserError: if there is no such label.
        """

    def to_json(self, prediction: Any) -> dict[str, Any]:
        """Return what `palm-jax infer` adds to a row: `predicted` and, where there are classes, `probabilities`."""

    def to_response(self, prediction: Any) -> dict[str, Any]:
        """Return the `label`, `labels`, `probabilities` and `number` of a response of /v1/classify."""


def class_id(names: Sequence[str], label: str) -> int:
    """Return the number of a class by its name.

    Raises:
      UserError: if there is no such class; the message names the closest.
    """
    if label not in names:
        raise UserError(f'The model has no label {label!r}.{closest(label, names)} {listed(names)}')
    return list(names).index(label)


def listed(names: Sequence[str]) -> str:
    """Return a sentence that names the labels of a model, the first twenty of many."""
    return f'Its labels: {", ".join(names[:20])}{" ..." if len(names) > 20 else ""}.'


def rank_by_probability(names: Sequence[str], p_C: np.ndarray) -> dict[str, float]:
    """Return the probabilities of C classes by name, the likeliest first."""
    return {names[c]: float(p_C[c]) for c in np.argsort(-np.asarray(p_C), kind='stable')}


def top_probabilities(names: Sequence[str], p_C: np.ndarray, count: int = 5) -> dict[str, float]:
    """Return the `count` likeliest classes, rounded, for a file of predictions."""
    return {names[c]: round(float(p_C[c]), 6) for c in np.argsort(-p_C)[:count]}
