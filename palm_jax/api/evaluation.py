"""Evaluation of a trained model on its held-out split or on seqio tasks: metrics with intervals."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from palm_jax.api.trained_model import TrainedModel
from palm_jax.errors import UserError
from palm_jax.models.quantization import dequantize_tree
from palm_jax.partitioning import MeshLayout
from palm_jax.predictors.generator import Generator
from palm_jax.training.batch_sizes import BatchSizes
from palm_jax.training.evaluate import Evaluator
from palm_jax.training.head_scores import metrics_and_scores
from palm_jax.training.losses import LanguageModelLoss
from palm_jax.training.metrics import Metrics
from palm_jax.training.result import EvaluationInput, Scored
from palm_jax.wording import counted

Measured = dict[str, Any]  # {'examples': n, 'metrics': {name: value}, 'intervals': {name: (low, high)}}
_BOOTSTRAPS = 1000


def on_held_out(model: TrainedModel, see: Callable[[Scored], None] | None = None) -> Measured:
    """Evaluate a model with the reporter of its run, on the run's held-out split.

    Args:
      model: the model.
      see: called with the scores of the head, if it has one; None ignores them.
    """
    assert model.checkpoint is not None, 'made by hand, not loaded from a run'
    run, step = model.run, int(model.checkpoint.name)
    layout, batch_sizes, loss = run.get('layout', MeshLayout()), BatchSizes.of(run['batch_size']), run.get('loss')
    batch_size, mesh = batch_sizes.at(step), layout.mesh()
    adapted, params = model.model, model.params
    if model.sampler.weights == 'int8':  # to measure what rounding costs
        adapted, params = model.for_decoding
        params = dequantize_tree(params, adapted.arch.dtype)
    loss = loss or LanguageModelLoss()
    eval_step = jax.jit(lambda params, batch: loss(adapted, params, batch)[1])
    score_step = jax.jit(lambda params, batch: metrics_and_scores(loss, adapted, params, batch))
    evaluator = Evaluator(
        model.data,
        batch_size,
        mesh,
        functools.partial(eval_step, params),
        functools.partial(score_step, params),
    )

    def score() -> Scored:
        scored = evaluator.score()
        if see is not None:
            see(scored)
        return scored

    with layout.on(mesh):
        measured = run['reporter'].measure(
            EvaluationInput(
                model=adapted,
                params=params,
                data=model.data,
                mesh=mesh,
                batch_size=batch_size,
                sequences_seen=batch_sizes.before(step),
                evaluate=evaluator.evaluate,
                score=score,
            )
        )
    of_batches = evaluator.of_batches
    intervals = {'loss': _interval(of_batches)} if len(of_batches) > 1 else {}
    count = None if measured.predictions is None else len(measured.predictions)
    found = {'examples': count, 'metrics': dict(measured.metrics), 'intervals': intervals | dict(measured.intervals)}
    return found | ({'baselines': measured.details['baselines']} if 'baselines' in measured.details else {})


def _interval(batches: list[Metrics]) -> tuple[float, float]:
    """Return the 95% interval of the mean loss, by bootstrap over batches."""
    totals, counts = (np.array([float(getattr(b['loss'], part)) for b in batches]) for part in ('total', 'count'))
    rows = np.random.default_rng(0).integers(0, len(batches), (_BOOTSTRAPS, len(batches)))
    means = totals[rows].sum(axis=1) / counts[rows].sum(axis=1)
    return tuple(np.quantile(means, [0.025, 0.975]).tolist())


def on_tasks(
    model: TrainedModel, name: str, split: str, num_examples: int | None = None, shots: int | None = None
) -> dict[str, Measured]:
    """Evaluate a model on a seqio task or mixture with the metrics of each task.

    Args:
      model: model that generates text.
      name: registered task or mixture with `inputs` and `targets`.
      split: split of its data.
      num_examples: number of examples of each task, from the beginning; None takes all.
      shots: number of solved examples before each question; None asks the question alone.

    Raises:
      UserError: if the model does not generate text, or `data.registry.evaluator.evaluate` refuses the task.
    """
    predictor = model.predictor
    if not isinstance(predictor, Generator):
        raise UserError(
            f'--task={name} needs a model that generates text, and {model.checkpoint} was trained '
            f'{predictor.purpose}. Leave out --task.'
        )
    from palm_jax.data.registry import evaluator

    evaluated = evaluator.evaluate(
        name,
        split,
        model.data.vocabulary,
        lambda prompts: predictor.answer(model, prompts),
        lambda pairs: [likelihood.total for likelihood in model.score(pairs)],
        num_examples,
        shots,
    )
    return {
        task: {'examples': found.examples, 'metrics': dict(found.metrics), 'intervals': dict(found.intervals)}
        for task, found in evaluated.items()
    }


def table(measured: Mapping[str, Measured]) -> str:
    """Return a table for the terminal, with a block per task."""
    lines = []
    for title, evaluation in measured.items():
        count = evaluation['examples']
        lines.append(title if count is None else f'{title}, {counted(count, "example")}')
        for name, value in evaluation['metrics'].items():
            low, high = evaluation['intervals'].get(name, (None, None))
            shown = '' if low is None else f'   95% interval {low:.4f} to {high:.4f}'
            lines.append(f'    {name:<24}{value:>10.4f}{shown}')
        for name, values in evaluation.get('baselines', {}).items():
            of_metrics = values.items() if isinstance(values, Mapping) else [('bits_per_byte', values)]
            lines += [f'    {metric:<24}{value:>10.4f}   baseline: {name}' for metric, value in of_metrics]
    return '\n'.join(lines)
