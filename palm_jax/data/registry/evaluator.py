"""seqio's Evaluator on any task or mixture, for a model that reads and writes text."""

from __future__ import annotations

import dataclasses
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
    """What a task's own metrics say.

    Attributes:
      examples: how many there were.
      metrics: by name.
      intervals: 95% by bootstrap over the examples, by name.
    """

    examples: int
    metrics: Mapping[str, float]
    intervals: Mapping[str, tuple[float, float]]


class _AsItIs(seqio.PassThroughFeatureConverter):
    """Examples as the task gives them, of any length."""

    # What the evaluator asks of a converter, and this one of seqio's does not say.
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
    """Every task of a task or mixture, with the metrics and the postprocessing that it was registered with.

    Args:
      name: of a registered task or mixture with `inputs` and `targets`.
      split: of its data.
      vocabulary: of the model.
      predict: texts that the model writes for inputs.
      score: log-likelihoods of (input, target).
      num_examples: so many from the beginning of each task; None is all.
      shots: so many solved examples of its training part before every question, see `few_shot`; None: as it is.

    Raises:
      UserError: no such task or split, or one without metrics.
    """
    return {task: _of_task(task, split, vocabulary, predict, score, num_examples, shots) for task in tasks.parts(name)}


def _of_task(name, split, vocabulary, predict, score, num_examples, shots) -> Evaluated:
    registered = tasks.task_of(name, split)
    if not registered.metric_fns:
        raise UserError(f'Task {name!r} has no metrics; register it with metric_fns=[...].')
    if 'inputs' not in registered.output_features:
        raise UserError(f'Task {name!r} has no `inputs` to answer; its loss is what a run on it reports.')
    if shots is not None:
        registered = seqio.TaskRegistry.get(few_shot(name, shots))
    task = tasks.with_vocabulary(registered, vocabulary)
    if task.name not in seqio.TaskRegistry.names():
        seqio.TaskRegistry.add_provider(task.name, task)
    evaluator = seqio.Evaluator(
        task.name, _AsItIs(), eval_split=split, num_examples=num_examples,
        async_compute_metrics=False,
    )  # fmt: skip

    def texts(dataset: Any, feature: str) -> list[str]:
        return [_text(example, feature, vocabulary) for _, example in dataset.as_numpy_iterator()]

    def predict_fn(dataset: Any) -> list[tuple[int, str]]:
        return list(enumerate(predict(texts(dataset, 'inputs'))))  # what is one text an example, seqio does not decode

    def score_fn(dataset: Any) -> list[tuple[int, float]]:
        pairs = list(zip(texts(dataset, 'inputs'), texts(dataset, 'targets'), strict=True))
        return list(enumerate(score(pairs)))

    try:
        results, outputs = evaluator.evaluate(compute_metrics=True, predict_fn=predict_fn, score_fn=score_fn)
    except ValueError as error:
        if not str(error).startswith('Failed to evaluate task'):  # as seqio says of whatever a metric raised
            raise
        raise UserError(f'A metric of task {name!r} ended with {error.__cause__!r}.') from error
    metrics = {key: float(value) for key, value in results.result()[task.name].items()}
    samples = _resampled(task, evaluator, outputs[task.name])
    intervals = {
        key: tuple(np.quantile([sample[key] for sample in samples], [0.025, 0.975]).tolist())
        for key in metrics
        if samples and all(key in sample for sample in samples)
    }
    count = sum(1 for _ in evaluator.cached_task_datasets[task.name])
    return Evaluated(count, metrics, intervals)


def _text(example: Mapping[str, Any], feature: str, vocabulary: Any) -> str:
    """As it was before it became tokens, or as these say."""
    raw = example.get(f'{feature}_pretokenized')
    return vocabulary.decode(example[feature].tolist()) if raw is None else raw.decode()


def _resampled(task: seqio.Task, evaluator: seqio.Evaluator, outputs: Mapping[Any, Any]) -> list[dict[str, float]]:
    """The metrics of examples drawn with replacement."""
    vocabulary, rng = task.output_features['targets'].vocabulary, np.random.default_rng(0)
    examples = list(evaluator.cached_task_datasets[task.name].as_numpy_iterator())

    def postprocessed(texts: Sequence[str], is_target: bool) -> list[Any]:
        pairs = zip(texts, examples, strict=True)
        return [task.postprocess_fn(text, example=example, is_target=is_target) for text, example in pairs]

    targets, given = postprocessed([_text(e, 'targets', vocabulary) for e in examples], True), []
    kinds = seqio.metrics.ModelOutputType
    if kinds.PREDICTION in outputs:
        predicted = postprocessed(outputs[kinds.PREDICTION], False)
        given += [(fn, predicted) for fn in task.predict_metric_fns]
    if kinds.SCORE in outputs:
        given += [(fn, list(outputs[kinds.SCORE])) for fn in task.score_metric_fns]
    samples = []
    for _ in range(_BOOTSTRAPS):
        rows = rng.integers(0, len(targets), len(targets))
        sample: dict[str, float] = {}
        for fn, said in given:
            try:
                sample |= fn([targets[i] for i in rows], [said[i] for i in rows])
            except Exception:  # of its own, and of all examples in their order: then there is no interval
                continue
        samples.append({key: float(value) for key, value in sample.items() if np.isscalar(value)})
    return samples
