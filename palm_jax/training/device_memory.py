"""Memory of the devices: the estimate before a run beside what the first step used, and advice when it is full."""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Iterator, Mapping

import jax

from palm_jax.errors import UserError
from palm_jax.models.quantization import is_quantized
from palm_jax.training.plan import Plan, byte_size

_ACTIVATIONS = 'activations (estimate)'
_SIZES = {'8b': 8e9, '2b': 2e9, '1b': 1e9, '400m': 388e6, 'base': 149e6, 'tiny': 2.9e6}  # parameters of gin/models


def compare(plan: Plan, stats: Mapping[str, int] | None = None) -> str:
    """Return the estimated and the measured memory of a device side by side, in one line.

    Args:
      plan: the run; its estimate is that of `--explain`.
      stats: `memory_stats()` of a device after the first step; None asks the first device of this process.

    Returns:
      The line; empty where the device does not measure its memory, as a CPU.
    """
    stats = jax.local_devices()[0].memory_stats() if stats is None else stats
    if not stats or 'peak_bytes_in_use' not in stats:
        return ''
    estimate, peak = sum(plan.memory().values()), stats['peak_bytes_in_use']
    limit = f' of {byte_size(stats["bytes_limit"])}' if 'bytes_limit' in stats else ''
    state = sum(bytes_ for use, bytes_ in plan.memory().items() if use not in ('gradients', _ACTIVATIONS))
    resident = f'; between steps {byte_size(state)} estimated, {byte_size(stats["bytes_in_use"])} measured' * (
        'bytes_in_use' in stats
    )
    return (
        f'memory     {byte_size(estimate)} per device estimated, {byte_size(peak)}{limit} measured at the peak '
        f'({peak / estimate:.2f} ×){resident}'
    )


@contextlib.contextmanager
def advice_when_full(plan: Plan) -> Iterator[None]:
    """Turn a device's error that its memory is full into a message that names the bindings that help.

    Raises:
      UserError: in place of the device's error.
    """
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if 'RESOURCE_EXHAUSTED' not in str(error):
            raise
        raise UserError(out_of_memory(plan, str(error))) from None


def out_of_memory(plan: Plan, error: str) -> str:
    """Return what a user reads when a device is full: what needs the memory, and what to type instead."""
    uses = plan.memory()
    shown = ', '.join(f'{use} {byte_size(bytes_)}' for use, bytes_ in sorted(uses.items(), key=lambda item: -item[1]))
    helps = '\n'.join(f'  {binding:32} {why}' for binding, why in _bindings(plan))
    first_line = error.strip().splitlines()[0]
    return (
        f'The memory of a device is full ({first_line}).\n'
        f'Estimated: {byte_size(sum(uses.values()))} per device: {shown}.\nWhat helps, the cheapest first:\n{helps}'
    )


def _bindings(plan: Plan) -> Iterator[tuple[str, str]]:
    """Yield flags that leave a run which its checks accept, and what each of them does."""
    uses = plan.memory()
    activations = uses[_ACTIVATIONS]
    if 4 * activations > sum(uses.values()) - activations:
        yield from _of_activations(plan, activations)
    yield from _of_mesh(plan)
    if uses['trained parameters'] + uses['optimizer state'] + uses['gradients'] > activations:
        if plan.num_trained == plan.num_params:
            yield '--gin_file=gin/peft/lora.gin', 'for fine-tuning: the optimizer keeps a few percent of the weights'
        if smaller := next((name for name, size in _SIZES.items() if 2 * size < plan.num_params), None):
            yield f'--gin_file=gin/models/{smaller}.gin', 'for pretraining: a smaller model'
    if plan.num_trained < plan.num_params:
        quantized = [x.qtype for x in jax.tree.leaves(plan.shapes.frozen, is_leaf=is_quantized) if is_quantized(x)]
        if not quantized:
            yield '--gin.BASE_WEIGHTS=int8', 'a quarter of the memory of frozen float32 weights; nf4 takes an eighth'
        elif 'int8' in quantized:
            yield '--gin.BASE_WEIGHTS=nf4', 'half of the memory of frozen weights in int8'
    if (part := _smallest_factor(_rows(plan))) > 1:
        yield f'--gin.BATCH_SIZE={max(_sizes(plan)) // part}', 'a smaller step: other results'
    yield 'TASK_FEATURE_LENGTHS', f'rows that are shorter than the {plan.length} tokens of now'


def _of_activations(plan: Plan, activations: int) -> Iterator[tuple[str, str]]:
    arch = plan.model.arch
    if (parts := _smallest_factor(_rows(plan))) > 1:
        saved = byte_size(activations * (1 - 1 / parts))
        yield (
            f'--gin.MICROBATCHES={parts * plan.microbatches}',
            f'the same step in {parts} times as many parts: saves about {saved}',
        )
    if arch.remat != 'full':
        yield (
            f'--gin.REMAT={"minimal" if arch.remat == "none" else "full"}',
            'recomputes activations in the backward pass, for up to a third more time',
        )
    if arch.dtype == 'float32':
        yield '--gin.COMPUTE_DTYPE=bfloat16', 'half the bytes of every activation'


def _of_mesh(plan: Plan) -> Iterator[tuple[str, str]]:
    layout, sizes = plan.layout, plan.axis_sizes
    if layout.stage == 1 and sizes['data'] > 1 and dict(layout.rules).get('embed') is None:
        yield '--gin_file=gin/mesh/fsdp.gin', 'splits weights and optimizer state over the devices of `data`'
    wider = dict(sizes) | {'data': sizes['data'] // 2, 'model': 2 * sizes['model']}
    if sizes['data'] % (2 * layout.slices) == 0 and _helps(plan, wider):
        yield f'--gin.MESH_MODEL={wider["model"]}', 'splits every layer over twice as many devices'


def _helps(plan: Plan, axis_sizes: Mapping[str, int]) -> bool:
    """Return whether a mesh divides all parameters of the run, and leaves less of it on a device."""
    try:
        for params in (plan.shapes.params, plan.shapes.frozen, *plan.teachers.values()):
            plan.layout.check(params, axis_sizes)
    except UserError:
        return False
    other = dataclasses.replace(plan, axis_sizes=axis_sizes)
    return sum(other.memory().values()) < sum(plan.memory().values())


def _sizes(plan: Plan) -> list[int]:
    return [size for _, size in plan.batch_sizes.ramp]


def _rows(plan: Plan) -> int:
    """Return the number of rows that a device computes at a time, or a divisor of it that a ramp has throughout."""
    piped = 1 if plan.layout.schedule is None else plan.layout.schedule.microbatches
    return math.gcd(*_sizes(plan)) // (plan.microbatches * piped * plan.axis_sizes['data'])


def _smallest_factor(number: int) -> int:
    """Return the smallest prime factor; 1 of 1 and of 0."""
    return next((factor for factor in range(2, number + 1) if number % factor == 0), 1)
