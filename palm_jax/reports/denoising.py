"""The report of a denoising model: its loss beside the best constant's, and examples of its predictions."""

from __future__ import annotations

import collections
import dataclasses
import math
from collections.abc import Collection, Mapping, Sequence
from typing import Annotated, Any

import jax
import numpy as np

from palm_jax.bounds import AtLeast
from palm_jax.metrics.text_baselines import Baseline
from palm_jax.reports.report import Measurements, RunReporter, warn_if_beaten
from palm_jax.training.result import EvaluationInput


@dataclasses.dataclass(frozen=True)
class DenoisingReporter(RunReporter):
    """Measures a denoising model on the held-out part, and shows its predictions for some of it.

    Attributes:
      examples: number of examples shown.
    """

    examples: Annotated[int, AtLeast(0)] = 3

    def metric_names(self, data: Any) -> Collection[str]:
        """Return nothing: all metrics are those of the loss."""
        del data
        return ()

    def measure(self, inputs: EvaluationInput) -> Measurements:
        """Evaluate on the whole held-out part."""
        counts: collections.Counter[int] = collections.Counter()
        metrics = inputs.evaluate(lambda batch: counts.update(targets(batch)))
        batch = next(iter(inputs.data.validation(max(1, self.examples))))
        values = {name: ratio.value() for name, ratio in metrics.items()}
        return measurements(values, best_constant(counts), _examples(inputs, batch)[: self.examples])


def measurements(metrics: dict[str, float], constant: float, examples: Sequence[tuple[str, str, str]]) -> Measurements:
    """The measurements of a denoising model.

    Args:
      metrics: metrics of the held-out part by name; `loss` in nats per target.
      constant: loss of the best constant prediction, see `best_constant`.
      examples: (visible text, hidden text, predicted text) of each example.
    """
    shown = ''.join(
        f'--- example {number}\nread   {read!r}\nhidden {hidden!r}\nmodel  {guess!r}\n'
        for number, (read, hidden, guess) in enumerate(examples, 1)
    )
    others = [(name, value) for name, value in metrics.items() if name.startswith('label_')]
    return Measurements(
        metrics=metrics,
        details={'best_constant': constant, 'examples': list(examples)},
        text=shown,
        lines=[
            f'validation loss  {metrics["loss"]:.4f} nats per target, {metrics["accuracy"]:.1%} correct',
            f'best constant    {constant:.4f}: predicts the held-out targets by their frequency',
            *(f'{name.replace("_", " "):<16} {value:.4f}' for name, value in others),
        ],
        samples=shown,
        warnings=warn_if_beaten(metrics, [Baseline('the best constant prediction', 'loss', constant, best=0.0)]),
        loss_unit='cross-entropy (nats per target)',
    )


def targets(batch: Mapping[str, np.ndarray]) -> list[int]:
    """Return the targets of a batch that the loss counts."""
    return batch['decoder_target_tokens'][batch['decoder_loss_weights'] > 0].tolist()


def best_constant(counts: Mapping[int, int]) -> float:
    """Return the entropy of targets in nats, by their counts: no constant prediction has a lower loss on them."""
    total = sum(counts.values())
    return -sum(count / total * math.log(count / total) for count in counts.values())


def _examples(inputs: EvaluationInput, batch: dict[str, np.ndarray]) -> list[tuple[str, str, str]]:
    """The text before or around the targets, the targets, and the likeliest token for each of them."""
    names = ('input_tokens', 'positions', 'segment_ids', 'causal_attention')
    features = [batch.get(f'decoder_{name}') for name in names]
    logits = jax.jit(inputs.model.apply)({'params': inputs.params}, *features)
    likeliest, decode = np.asarray(logits.argmax(axis=-1)), inputs.data.vocabulary.decode
    both_ways = batch.get('decoder_causal_attention', np.zeros_like(batch['decoder_loss_weights']))
    shown = []
    for row in range(len(likeliest)):
        learned = batch['decoder_loss_weights'][row] > 0
        in_place = both_ways[row][learned].all()  # else the targets follow the text
        read = batch['decoder_input_tokens'][row] if in_place else batch['decoder_target_tokens'][row][~learned]
        hidden = batch['decoder_target_tokens'][row][learned]
        shown.append((decode(read), decode(hidden), decode(likeliest[row][learned])))
    return shown
