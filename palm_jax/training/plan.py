"""A run in numbers and tables before it begins, known from shapes alone."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax

from palm_jax.models.quantization import is_quantized
from palm_jax.parameters import path_name
from palm_jax.partitioning import MeshLayout, bytes_per_device
from palm_jax.peft.method import AdaptedModel
from palm_jax.training import flops
from palm_jax.training.batch_sizes import BatchSizes
from palm_jax.training.loss_wrappers.wrapper import Rows
from palm_jax.training.state import TrainState
from palm_jax.wording import counted

_BOXED = nn.meta.AxisMetadata


@dataclasses.dataclass(frozen=True)
class Plan:
    """A run before it begins.

    Attributes:
      model: the model, with its fine-tuning methods.
      shapes: shapes of the state, boxed with their logical axes.
      layout: which axes are split over the mesh.
      axis_sizes: number of devices along each axis of the mesh.
      batch_sizes: sequences per step.
      length: tokens per sequence.
      total_steps: number of steps of the whole run.
      frozen_layers: number of layers at the bottom that have no backward pass.
      teachers: shapes of the parameters of the models that are learned from, by path.
      microbatches: number of parts of a batch that are computed one after another.
      rows: what a step reads for each row of a batch, by the methods around the loss.
    """

    model: AdaptedModel
    shapes: TrainState
    layout: MeshLayout
    axis_sizes: Mapping[str, int]
    batch_sizes: BatchSizes
    length: int
    total_steps: int
    frozen_layers: int = 0
    teachers: Mapping[str | None, Any] = dataclasses.field(default_factory=dict)
    microbatches: int = 1
    rows: Rows = Rows()

    @property
    def num_params(self) -> int:
        """Number of all parameters, norm scales and the embedding included."""
        return self.num_trained + _count(self.shapes.frozen)

    @property
    def num_trained(self) -> int:
        """Number of parameters that the run changes."""
        return _count(self.shapes.params)

    @property
    def flops_per_token(self) -> float:
        """FLOPs of one token's forward and backward pass, by the PaLM paper's formula, if all is trained."""
        return flops.per_token(self.num_params, self.model.arch, self.length)

    @property
    def step_flops_per_token(self) -> float:
        """The same for all passes of a step, about: methods around the loss read a token several times."""
        return self.rows.passes * self.flops_per_token

    @property
    def share_of_full_flops(self) -> float:
        """Matmul FLOPs of a step as a fraction of training everything in one pass; see `flops.share_of_full`."""
        return self._of_passes(flops.share_of_full(self.num_trained, self._num_through(), self.num_params))

    def computed_flops_per_token(self, length: float) -> float:
        """FLOPs of one token as this run computes it: without gradients of frozen weights, at its real length.

        Args:
          length: mean number of tokens in a row, padding included.
        """
        unused = 0 if self.model.head is None else self._count_all('embed')  # looked up, but in no matmul
        unused_trained = _count(self.shapes.params.get('embed', {})) if unused else 0
        used = self.num_params - unused
        share = flops.share_of_full(self.num_trained - unused_trained, self._num_through(), used)
        return self._of_passes(share) * flops.per_token(used, self.model.arch, length)

    def _of_passes(self, share: float) -> float:
        """Return a share of the FLOPs of full training for all passes of a step, from that for one."""
        return self.rows.in_all * share + self.rows.without_gradient / 3

    def _num_through(self) -> float:
        """Number of weights through which the gradient flows."""
        if not self.shapes.params.keys() - {'final_norm', 'head'}:
            return 0.0
        through = self._count_all('stack') * (1 - self.frozen_layers / self.model.arch.num_layers)
        return through + (self._count_all('embed') if self.model.head is None else 0)

    def _count_all(self, part: str) -> int:
        """Number of weights in a part of the model, trained or frozen."""
        return sum(_count(tree.get(part, {})) for tree in (self.shapes.params, self.shapes.frozen))

    def trained_summary(self) -> str:
        """Return `cost` in one line."""
        return ', '.join(f'{name} {value}' for name, value in self.cost().items())

    def cost(self) -> dict[str, str]:
        """Return how much is trained at what cost, compared with training everything."""
        optimizer = bytes_per_device(self.shapes.opt_state, self.layout, self.axis_sizes)
        return {
            'parameters': f'{self.num_trained:,} of {self.num_params:,} ({self.num_trained / self.num_params:.2%})',
            'optimizer': f'{optimizer / 2**20:.1f} MiB per device',
            'step': f"{self.share_of_full_flops:.0%} of full training's FLOPs",
        }

    @property
    def total_tokens(self) -> int:
        """Number of tokens that the whole run reads."""
        return self.batch_sizes.before(self.total_steps) * self.length

    def parameter_table(self) -> str:
        """Return a table of the parameters: path, shape, logical axes, how it is split, whether it is trained."""
        rows = [('parameter', 'shape', 'axes', 'split over', 'trained')]
        leaves = [
            (path_name(path), leaf, trained)
            for tree, trained in ((self.shapes.params, True), (self.shapes.frozen, False))
            for path, leaf in jax.tree_util.tree_leaves_with_path(tree, is_leaf=lambda x: isinstance(x, _BOXED))
        ]
        for path, leaf, trained in sorted(leaves, key=lambda row: row[0]):
            split = [
                f'{name}:{axis}={self.axis_sizes[axis]}'
                for name, axis in zip(leaf.names, self.layout.spec(leaf), strict=True)
                if axis is not None and self.axis_sizes[axis] > 1
            ]
            rows.append(
                (
                    path,
                    ' × '.join(f'{n:,}' for n in leaf.value.shape),
                    ' '.join(name or '-' for name in leaf.names),
                    ' '.join(split) or 'replicated',
                    'yes' if trained else 'no',
                )
            )
        widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
        lines = ['  '.join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
        lines.insert(1, '  '.join('-' * width for width in widths))
        return '\n'.join(lines)

    def memory(self) -> dict[str, int]:
        """Return the bytes on one device by their use; activations are estimated for the model's `remat`."""
        per_device = {
            'trained parameters': bytes_per_device(self.shapes.params, self.layout, self.axis_sizes),
            'frozen parameters': bytes_per_device(self.shapes.frozen, self.layout, self.axis_sizes),
            'optimizer state': bytes_per_device(self.shapes.opt_state, self.layout, self.axis_sizes),
        }
        if self.shapes.anchor:
            per_device['anchor of the start'] = bytes_per_device(self.shapes.anchor, self.layout, self.axis_sizes)
        if self.teachers:
            per_device['teacher'] = bytes_per_device(self.teachers, self.layout, self.axis_sizes)
        sums = 1 if self.microbatches == 1 else 2  # of all parts so far, and those of the current one
        per_device['gradients'] = sums * per_device['trained parameters']
        per_device['activations (estimate)'] = self._activation_bytes()
        return per_device

    def _activation_bytes(self) -> int:
        """Saved between the passes: block inputs and, without full rematerialization, outputs of matmuls.

        A stage of a pipeline saves those of its own layers, the bubble's included, and with rematerialization the input
        of an iteration instead of every block's; before and after the pipeline every stage holds the whole batch.
        """
        arch, schedule = self.model.arch, self.layout.schedule
        rows = max(size for _, size in self.batch_sizes.ramp) / (self.axis_sizes['data'] * self.microbatches)
        tokens = self.rows.at_once * rows * self.length
        item = jax.numpy.dtype(arch.dtype).itemsize
        split = arch.num_heads * arch.head_dim + 2 * arch.hidden_dim  # split over `model`
        whole = 2 * arch.d_model + 2 * arch.num_kv_heads * arch.head_dim
        between = {('act_length', 'model'), ('act_embed', 'model')} & set(self.layout.rules)
        block_input = arch.d_model / (self.axis_sizes['model'] if between else 1)
        saved = {
            'full': block_input,
            'minimal': block_input + whole + split / self.axis_sizes['model'],
            'none': 4 * arch.d_model + 2 * (whole + split / self.axis_sizes['model']),
        }[arch.remat]
        if schedule is None:
            return int(tokens * item * saved * arch.num_layers)
        at_once = schedule.layers_at_once(arch.num_layers)
        if arch.remat != 'none':
            saved -= block_input * (1 - 1 / at_once)
        iterations = schedule.iterations / schedule.microbatches
        return int(tokens * item * (saved * at_once * iterations + 2 * arch.d_model))

    def _pipeline(self) -> tuple[str, ...]:
        """The line of the pipeline in `summary`; none without one."""
        schedule = self.layout.schedule
        if schedule is None:
            return ()
        at_once = schedule.layers_at_once(self.model.arch.num_layers)
        microbatches = counted(schedule.microbatches, 'microbatch', 'microbatches')
        return (
            f'pipeline   {counted(schedule.stages, "stage")} × {counted(schedule.repeats, "repeat")} of '
            f'{counted(at_once, "layer")}, {microbatches}: the bubble is {schedule.bubble:.1%} of a step, '
            f'(stages − 1) / (microbatches × repeats + stages − 1) = {schedule.stages - 1} / {schedule.iterations}',
        )

    def _passes(self) -> str:
        """What methods around the loss add to a step, for the line of the FLOPs in `summary`."""
        parts = []
        if self.rows != Rows():
            parts.append(
                f'; a step takes {self.rows.passes:.3g} passes over its rows, {self.rows.at_once:g} of them at once'
            )
        if self.teachers:
            parts.append('; what teachers read, and what is sampled, is not counted')
        return ''.join(parts)

    def summary(self, num_sequences: int | None, mean_length: float | None = None) -> str:
        """Return the run in a few lines.

        Args:
          num_sequences: number of training sequences, for the number of epochs; None if unknown.
          mean_length: mean number of tokens in a row, if rows are cut; None is the whole length.
        """
        arch = self.model.arch
        sizes = ' then '.join(
            f'{size} × {self.length}' + (f' from step {first:,}' if first else '')
            for first, size in self.batch_sizes.ramp
        )
        mean_length = self.length if mean_length is None else mean_length
        cut = f' at most, {mean_length:.0f} on average' if mean_length < self.length else ''
        total_tokens = round(self.total_tokens * mean_length / self.length)
        epochs = f', {self.total_tokens / self.length / num_sequences:.2f} epochs' if num_sequences else ''
        mesh = ' × '.join(f'{axis} = {size}' for axis, size in self.axis_sizes.items())
        memory = self.memory()
        return '\n'.join(
            (
                f'model      {self.num_params:,} parameters: {arch.num_layers} layers, width {arch.d_model:,}, '
                f'{counted(arch.num_heads, "head")} of {arch.head_dim} on '
                f'{counted(arch.num_kv_heads, "key/value head")}, '
                f'vocabulary {arch.vocab_size:,}',
                f'trained    {self.trained_summary()}',
                f'work       {self.total_steps:,} steps of {sizes} tokens{cut} = {total_tokens:,} tokens{epochs}',
                f'FLOPs      {self.flops_per_token:.3g} per token, '
                f'{self.step_flops_per_token * total_tokens:.3g} in total{self._passes()}',
                f'mesh       {mesh}',
                *self._pipeline(),
                f'memory     {byte_size(sum(memory.values()))} per device: '
                + ', '.join(f'{name} {byte_size(size)}' for name, size in memory.items()),
            )
        )


def byte_size(num_bytes: float) -> str:
    """Return a number of bytes in MiB, or in GiB from 1 GiB on."""
    return f'{num_bytes / 2**30:.2f} GiB' if num_bytes >= 2**30 else f'{num_bytes / 2**20:.1f} MiB'


def _count(tree: Any) -> int:
    """Number of parameters, boxed or not; a quantized one counts as its values."""
    values = jax.tree.map(lambda x: x.values if is_quantized(x) else x, tree, is_leaf=is_quantized)
    return sum(math.prod(x.shape) for x in jax.tree.leaves(values))
