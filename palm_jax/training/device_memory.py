"""Memory of the devices: the estimate before a run beside what the first step used, and advice when it is full."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping

import jax

from palm_jax.errors import UserError
from palm_jax.training.plan import Plan, byte_size

_ACTIVATIONS = 'activations (estimate)'


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
def advice_when_full(plan: Plan, microbatches: int = 1) -> Iterator[None]:
    """Turn a device's error that its memory is full into a message that names the bindings that help.

    Raises:
      UserError: in place of the device's error.
    """
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if 'RESOURCE_EXHAUSTED' not in str(error):
            raise
        raise UserError(out_of_memory(plan, microbatches, str(error))) from None


def out_of_memory(plan: Plan, microbatches: int, error: str) -> str:
    """Return what a user reads when a device is full: what needs the memory, and what to type instead."""
    uses = plan.memory()
    shown = ', '.join(f'{use} {byte_size(bytes_)}' for use, bytes_ in sorted(uses.items(), key=lambda item: -item[1]))
    helps = '\n'.join(f'  {binding:32} {why}' for binding, why in _bindings(plan, microbatches))
    first_line = error.strip().splitlines()[0]
    return (
        f'The memory of a device is full ({first_line}).\n'
        f'Estimated: {byte_size(sum(uses.values()))} per device: {shown}.\nWhat helps, the cheapest first:\n{helps}'
    )


def _bindings(plan: Plan, microbatches: int) -> Iterator[tuple[str, str]]:
    uses, batch = plan.memory(), plan.batch_sizes.ramp[-1][1]
    activations, state = uses[_ACTIVATIONS], sum(uses.values()) - uses[_ACTIVATIONS]
    rows = batch // (microbatches * plan.axis_sizes['data'])
    if activations * 4 > state:
        if rows > 1 and rows % 2 == 0:
            yield (
                f'--gin.MICROBATCHES={2 * microbatches}',
                f'the same step in twice as many parts: saves about {byte_size(activations / 2)}',
            )
        remat = plan.model.arch.remat
        if remat != 'full':
            yield (
                f'--gin.REMAT={"minimal" if remat == "none" else "full"}',
                'recomputes activations in the backward pass, for up to a third more time',
            )
        if plan.model.arch.dtype == 'float32':
            yield '--gin.COMPUTE_DTYPE=bfloat16', 'half the bytes of every activation'
    trained = uses['trained parameters'] + uses['optimizer state'] + uses['gradients']
    num_devices = plan.axis_sizes['data'] * plan.axis_sizes['model']
    if num_devices > plan.axis_sizes['model']:
        yield f'--gin.MESH_MODEL={2 * plan.axis_sizes["model"]}', 'splits every layer over twice as many devices'
    if trained > activations and plan.num_trained == plan.num_params:
        yield '--gin_file=gin/peft/lora.gin', 'for fine-tuning: the optimizer keeps a few percent of the weights'
        yield '--gin_file=gin/models/400m.gin', 'for pretraining: a smaller model'
    if plan.num_trained < plan.num_params:
        yield '--gin.BASE_WEIGHTS=int8', 'a quarter of the memory of frozen float32 weights; nf4 takes an eighth'
    if batch > plan.axis_sizes['data']:
        yield f'--gin.BATCH_SIZE={max(plan.axis_sizes["data"], batch // 2)}', 'a smaller step: other results'
