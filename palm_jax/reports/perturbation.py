"""How a model's metrics fall as its embedded inputs are moved against it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import jax
import jax.numpy as jnp

from palm_jax.bounds import AtLeast, checked
from palm_jax.models.embedded_inputs import WithEmbeddedInputs
from palm_jax.partitioning import shard_batch
from palm_jax.reports.extended import ExtendedReporter
from palm_jax.reports.plots import plot_curves
from palm_jax.reports.report import Measurements
from palm_jax.training import metrics as metrics_lib
from palm_jax.training.loss_wrappers.adversary import is_token, unit
from palm_jax.training.metrics import Metrics
from palm_jax.training.result import EvaluationInput


@checked
@dataclasses.dataclass(frozen=True)
class PerturbationCurve(ExtendedReporter):
    """The report of a task, with the metrics of its loss at perturbations of growing size.

    A row's perturbation is ε·g / ‖g‖₂, g the gradient of its loss at the embedded inputs: the direction in which it
    rises fastest. The flatter the curve, the more robust the model.

    Attributes:
      reporter: reporter of the task.
      loss: loss of the task, without what wraps it in training.
      sizes: norms ε of a row's perturbation, beside 0.
    """

    loss: Any
    sizes: Sequence[Annotated[float, AtLeast(0)]] = (0.25, 0.5, 1.0, 2.0, 4.0)

    def measure(self, inputs: EvaluationInput) -> Measurements:
        """Measure the task, and its loss along the curve."""
        measured, curve = self.reporter.measure(inputs), self.curve(inputs)
        names = sorted(next(iter(curve.values())), key=lambda name: (name != 'loss', name))
        rows = [(f'{size:g}', *(f'{values[name]:.4f}' for name in names)) for size, values in curve.items()]
        shown = 'accuracy' if 'accuracy' in names else names[0]
        line = ', '.join(f'{values[shown]:.4f} at {size:g}' for size, values in curve.items())

        def draw(path: Path) -> None:
            lines = {name: [values[name] for values in curve.values()] for name in names}
            plot_curves(list(curve), lines, 'norm of the perturbation', path)

        return dataclasses.replace(
            measured,
            details={**measured.details, 'perturbation': {f'{size:g}': values for size, values in curve.items()}},
            lines=[*measured.lines, f'{"perturbed":<16} {shown} {line}'],
            tables={**measured.tables, 'Perturbed inputs': [('norm', *names), *rows]},
            figures={**measured.figures, 'perturbation.png': draw},
        )

    def curve(self, inputs: EvaluationInput) -> Mapping[float, Mapping[str, float]]:
        """Return the metrics of the loss on the held-out part by the size of the perturbation."""
        sizes, model = sorted({0.0, *self.sizes}), inputs.model.clone(frozen_layers=0)

        @jax.jit
        def of_batch(params: Any, batch: dict[str, jax.Array]) -> list[Metrics]:
            def loss(delta: jax.Array) -> tuple[jax.Array, Metrics]:
                moved = WithEmbeddedInputs(model, lambda x: (x.astype(jnp.float32) + delta).astype(x.dtype))
                return self.loss(moved, params, batch)

            inside = is_token(batch)[..., None]
            still = jnp.zeros((*inside.shape[:2], model.arch.d_model), jnp.float32)
            direction = unit(jax.grad(loss, has_aux=True)(still)[0] * inside)
            return [loss(size * direction)[1] for size in sizes]

        found = [
            of_batch(inputs.params, shard_batch(batch, inputs.mesh))
            for _, batch in inputs.data.validation_by_length(inputs.batch_size)
        ]
        return {
            size: {
                name: ratio.value() for name, ratio in metrics_lib.total([of_sizes[i] for of_sizes in found]).items()
            }
            for i, size in enumerate(sizes)
        }
