"""A trained model on a held-out part, or on seqio tasks: measures with their intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import numpy as np

from palm_jax.api.trained_model import Trained
from palm_jax.data.supervised.text_to_text import TextToText
from palm_jax.errors import UserError
from palm_jax.inference.decoding import START_ID
from palm_jax.inference.quantization import dequantize
from palm_jax.partitioning import MeshLayout, shard_batch
from palm_jax.training import metrics as metrics_lib
from palm_jax.training.batch_sizes import BatchSizes
from palm_jax.training.losses import LanguageModelLoss
from palm_jax.training.metrics import Metrics
from palm_jax.training.result import EvaluationInput

Measured = dict[str, Any]  # {'examples': n, 'metrics': {name: value}, 'intervals': {name: (low, high)}}
_BOOTSTRAPS = 1000


def on_held_out(model: Trained) -> Measured:
    """Measure a model by its run's own reporter, on the held-out part of the run's data."""
    run, step = model.run, int(model.checkpoint.name)
    layout, batch_sizes, loss = run.get('layout', MeshLayout()), BatchSizes.of(run['batch_size']), run.get('loss')
    batch_size, mesh, of_batches = batch_sizes.at(step), layout.mesh(), []
    adapted, params = model.model, model.params
    if model.sampler.weights == 'int8':  # what rounding costs in loss
        adapted, params = model.for_decoding
        params = dequantize(params, adapted.arch.dtype)
    eval_step = jax.jit(lambda params, batch: (loss or LanguageModelLoss())(adapted, params, batch)[1])

    def evaluate() -> Metrics:
        batches = model.data.validation(batch_size)
        of_batches[:] = [jax.device_get(eval_step(params, shard_batch(batch, mesh))) for batch in batches]
        return metrics_lib.total(of_batches)

    with jax.set_mesh(mesh), nn.logical_axis_rules(layout.rules):
        measured = run['reporter'].measure(
            EvaluationInput(
                model=adapted,
                params=params,
                data=model.data,
                mesh=mesh,
                batch_size=batch_size,
                sequences_seen=batch_sizes.before(step),
                evaluate=evaluate,
            )
        )
    intervals = {'loss': _interval(of_batches)} if len(of_batches) > 1 else {}
    count = None if measured.predictions is None else len(measured.predictions)
    return {'examples': count, 'metrics': dict(measured.metrics), 'intervals': intervals | dict(measured.intervals)}


def _interval(batches: list[Metrics]) -> tuple[float, float]:
    """The 95% confidence interval of the mean loss, by bootstrap over batches."""
    totals, counts = (np.array([float(getattr(b['loss'], part)) for b in batches]) for part in ('total', 'count'))
    rows = np.random.default_rng(0).integers(0, len(batches), (_BOOTSTRAPS, len(batches)))
    means = totals[rows].sum(axis=1) / counts[rows].sum(axis=1)
    return tuple(np.quantile(means, [0.025, 0.975]).tolist())


def on_tasks(
    model: Trained, name: str, split: str, num_examples: int | None = None, shots: int | None = None
) -> dict[str, Measured]:
    """What the metrics of seqio tasks say, by task; `shots` solved examples stand before every question.

    Raises:
      UserError: a model that does not write, or what `data.evaluator.evaluate` refuses.
    """
    if model.model.head is not None:
        raise UserError(f'A seqio task asks for text, and {model.checkpoint} labels it. Leave out --task.')
    from palm_jax.data.registry import evaluator

    found = evaluator.evaluate(
        name,
        split,
        model.data.vocabulary,
        model.answer if isinstance(model.data, TextToText) else lambda prompts: _continued(model, prompts),
        lambda pairs: [likelihood.total for likelihood in model.score(pairs)],
        num_examples,
        shots,
    )
    return {
        task: {'examples': one.examples, 'metrics': dict(one.metrics), 'intervals': dict(one.intervals)}
        for task, one in found.items()
    }


def _continued(model: Trained, prompts: Sequence[str]) -> list[str]:
    """What the model writes after prompts; where one leaves no room for it, the prompt's beginning is left out."""
    length, vocabulary, sampler = model.data.length, model.data.vocabulary, model.sampler
    room = max(length // 2, length - sampler.max_tokens)
    encoded = [[START_ID, *vocabulary.encode(prompt)] for prompt in prompts]
    too_long = sum(len(ids) > room for ids in encoded)
    if too_long:
        print(
            f'{too_long:,} of {len(prompts):,} prompts are longer than {room} tokens, which leave room to write in the '
            f'{length} that the model reads: their beginnings are left out. Fewer --shots or MAX_NEW_TOKENS help.'
        )
    written = sampler.generate(*model.for_decoding, vocabulary, [ids[-room:] for ids in encoded], length)
    return [best.text for best, *_ in written]


def table(measured: Mapping[str, Measured]) -> str:
    """Rows for the terminal."""
    lines = []
    for title, of_one in measured.items():
        count = of_one['examples']
        lines.append(title if count is None else f'{title}, {count:,} examples')
        for name, value in of_one['metrics'].items():
            low, high = of_one['intervals'].get(name, (None, None))
            shown = '' if low is None else f'   95% interval {low:.4f} to {high:.4f}'
            lines.append(f'    {name:<24}{value:>10.4f}{shown}')
    return '\n'.join(lines)
