"""seqio's Evaluator for any task or mixture, with a text-to-text model."""

from __future__ import annotations

import dataclasses
import numbers
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import seqio

from palm_jax.data.registry import tasks
from palm_jax.data.registry.seqio_chains import few_shot
from palm_jax.data.vocabulary.vocabularies import Vocabulary
from palm_jax.errors import UserError

_BOOTSTRAPS = 200


@dataclasses.dataclass(frozen=True)
class Evaluated:
    """Results of a task with its own metrics.

    Attributes:
      examples: number of examples.
      metrics: metrics by name.
      intervals: 95% bootstrap intervals over the examples, by name.
    """

    examples: int
    metrics: Mapping[str, float]
    intervals: Mapping[str, tuple[float, float]]


class _Unconverted(seqio.PassThroughFeatureConverter):
    """A feature converter that leaves examples of any length unchanged."""

    # Required by the evaluator, but not defined by seqio's class.
    TASK_FEATURES: ClassVar[dict] = {}
    pack = False


def evaluate(
    name: str,
    split: str,
    vocabulary: Vocabulary,
    predict: Callable[[Sequence[str]], Sequence[str]],
    score: Callable[[Sequence[tuple[str, str]]], Sequence[float]],
    num_examples: int | None = None,
    shots: int | None = None,
) -> dict[str, Evaluated]:
    """Evaluate every task of a task or mixture with its registered metrics and postprocessing.

    Args:
      name: registered task or mixture with `inputs` and `targets`.
      split: split to evaluate on.
      vocabulary: vocabulary of the model.
      predict: function that generates a text for every input.
      score: function that returns the log-likelihood of every (input, target).
      num_examples: number of examples per task, from the beginning; None is all.
      shots: number of solved training examples before every question, see `few_shot`; None leaves the inputs
        unchanged.

      Returns:
        Results by task.

    Raises:
      UserError: if there is no such task or split, or it has no metrics.
    """
    return {
        task: _evaluate_task(task, split, vocabulary, predict, score, num_examples, shots) for task in tasks.parts(name)
    }


def _evaluate_task(
    name: str,
    split: str,
    vocabulary: Vocabulary,
    predict: Callable[[Sequence[str]], Sequence[str]],
    score: Callable[[Sequence[tuple[str, str]]], Sequence[float]],
    num_examples: int | None,
    shots: int | None,
) -> Evaluated:
    registered = tasks.task_of(name, split)
    if not registered.metric_fns:
        raise UserError(f'Task {name!r} has no metrics; register it with metric_fns=[...].')
    if 'inputs' not in registered.output_features:
        raise UserError(f'Task {name!r} has no `inputs`, so there is nothing to predict; runs on it report its loss.')
    if shots is not None:
        registered = seqio.TaskRegistry.get(few_shot(name, shots))
    task = tasks.with_vocabulary(registered, vocabulary)
    if task.name not in seqio.TaskRegistry.names():
        seqio.TaskRegistry.add_provider(task.name, task)
    evaluator = seqio.Evaluator(
        task.name, _Unconverted(), eval_split=split, num_examples=num_examples,
        async_compute_metrics=False,
    )  # fmt: skip

    def texts(dataset: Any, feature: str) -> list[str]:
        return [_text(example, feature, vocabulary) for _, example in dataset.as_numpy_iterator()]

    def predict_fn(dataset: Any) -> list[tuple[int, str]]:
        # seqio does not decode outputs that are one text per example.
        return list(enumerate(predict(texts(dataset, 'inputs'))))

    def score_fn(dataset: Any) -> list[tuple[int, float]]:
        pairs = list(zip(texts(dataset, 'inputs'), texts(dataset, 'targets'), strict=True))
        return list(enumerate(score(pairs)))

    try:
        results, outputs = evaluator.evaluate(compute_metrics=True, predict_fn=predict_fn, score_fn=score_fn)
    except ValueError as error:
        if not str(error).startswith('Failed to evaluate task'):  # the message of seqio for any error in a metric
            raise
        raise UserError(f'A metric of task {name!r} failed with {error.__cause__!r}.') from error
    metrics = {key: float(value) for key, value in results.result()[task.name].items()}
    count = sum(1 for _ in evaluator.cached_task_datasets[task.name])
    samples = _bootstrap(task, evaluator, outputs[task.name])
    intervals = {
        key: tuple(np.quantile([sample[key] for sample in samples], [0.025, 0.975]).tolist())
        for key in metrics
        if count > 1 and samples and all(key in sample for sample in samples)
    }
    return Evaluated(count, metrics, intervals)


def _text(example: Mapping[str, Any], feature: str, vocabulary: Any) -> str:
    """Return the pretokenized text if available, else the decoded tokens."""
    raw = example.get(f'{feature}_pretokenized')
    return vocabulary.decode(example[feature].tolist()) if raw is None else raw.decode()


def _bootstrap(task: seqio.Task, evaluator: seqio.Evaluator, outputs: Mapping[Any, Any]) -> list[dict[str, float]]:
    """Return the metrics of examples drawn with replacement, for every draw."""
    vocabulary, rng = task.output_features['targets'].vocabulary, np.random.default_rng(0)
    examples = list(evaluator.cached_task_datasets[task.name].as_numpy_iterator())

    def postprocess(texts: Sequence[str], is_target: bool) -> list[Any]:
        pairs = zip(texts, examples, strict=True)
        return [task.postprocess_fn(text, example=example, is_target=is_target) for text, example in pairs]

    targets = postprocess([_text(e, 'targets', vocabulary) for e in examples], True)
    metrics: list[tuple[Callable[..., Mapping[str, Any]], list[Any]]] = []
    kinds = seqio.metrics.ModelOutputType
    if kinds.PREDICTION in outputs:
        predicted = postprocess(outputs[kinds.PREDICTION], False)
        metrics += [(fn, predicted) for fn in task.predict_metric_fns]
    if kinds.SCORE in outputs:
        metrics += [(fn, list(outputs[kinds.SCORE])) for fn in task.score_metric_fns]
    samples = []
    for _ in range(_BOOTSTRAPS):
        rows = rng.integers(0, len(targets), len(targets))
        sample: dict[str, float] = {}
        for fn, outputs_of_fn in metrics:
            try:
                sample |= fn([targets[i] for i in rows], [outputs_of_fn[i] for i in rows])
            except Exception:  # a metric that needs all examples in their order has no interval
                continue
        samples.append({key: float(value) for key, value in sample.items() if isinstance(value, numbers.Real)})
    return samples
