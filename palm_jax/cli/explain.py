"""`--explain`: what a run would do, without an accelerator and without allocating parameters."""

from __future__ import annotations

from typing import Any

import jax

from palm_jax.checkpoint_metadata import CheckpointMetadata
from palm_jax.configuration.compose import render
from palm_jax.configuration.load import Configuration
from palm_jax.errors import UserError
from palm_jax.training.checks import check_attention, check_batches, check_run
from palm_jax.training.losses import LanguageModelLoss
from palm_jax.training.messages import mean_length
from palm_jax.training.setup import Setup, adapt_from_arguments
from palm_jax.wording import counted


def explain(configuration: Configuration, arguments: dict[str, Any], num_devices: int | None) -> tuple[str, str | None]:
    """Return the resolved configuration with sources, an example, the parameters, and the cost of the run.

    Args:
      configuration: configuration with the source of every value.
      arguments: arguments of `loop.train`.
      num_devices: number of devices to plan for; None takes that of the mesh layout, or of this machine if the layout
        takes all.

    Returns:
      The explanation, and why the run would fail, which it contains; None if nothing is known to stop it.

    Raises:
      UserError: a value cannot work, with its location.
    """
    try:
        return _explain(configuration, arguments, num_devices)
    except UserError as error:
        raise UserError(configuration.located(str(error))) from error


def _explain(
    configuration: Configuration, arguments: dict[str, Any], num_devices: int | None
) -> tuple[str, str | None]:
    layout, data = arguments['layout'], arguments['data']
    if num_devices is None:
        num_devices = jax.device_count() if layout.data == -1 else layout.data * layout.model * layout.stage
    model, selection = adapt_from_arguments(arguments)
    optimizer, batch_size, total_steps = (arguments[name] for name in ('optimizer', 'batch_size', 'total_steps'))
    base_weights, wrappers = arguments.get('base_weights', 'stored'), arguments.get('loss_wrappers', ())
    sizes = num_devices, batch_size, data.length, total_steps
    microbatches = arguments.get('microbatches', 1)
    setup = Setup.of(model, selection, optimizer, layout, *sizes, base_weights, wrappers, microbatches)
    loss = arguments.get('loss', LanguageModelLoss())
    setup = setup.around(loss, data.blank if data.is_ready else dict)
    plan = setup.plan
    setup.check_start(arguments.get('initial_checkpoint'))
    if data.is_ready:
        setup.check_teachers(CheckpointMetadata.of_model(model.arch, data.vocabulary.fingerprint))
        setup.check_loss(loss, data.blank())
        check_attention(setup, loss, data)
    rows = (data.num_sequences, mean_length(data, plan.batch_sizes.at(0))) if data.is_ready else (None,)
    sections = {
        'configuration': _sources(configuration),
        'training and held-out data': data.describe(),
        'one training example': data.example(),
        'parameters': plan.parameter_table(),
        f'the run on {counted(num_devices, "device")}': plan.summary(*rows),
    }
    problem = None
    try:
        parts = plan.axis_sizes['data'], microbatches
        if data.is_ready:
            check_run(arguments['model'], data, plan.batch_sizes, *parts, arguments['reporter'], layout.schedule)
        else:
            check_batches(plan.batch_sizes, data.group, *parts, layout.schedule)
    except UserError as error:
        problem = sections['the run would fail'] = f'{error}'
    return '\n\n'.join(f'## {title}\n{body}' for title, body in sections.items()), problem


def _sources(configuration: Configuration) -> str:
    rows = [(s.name, render(s.value), s.location) for s in configuration.effective.values()]
    names = max(len(name) for name, _, _ in rows)
    values = min(48, max(len(value) for _, value, _ in rows))
    return '\n'.join(f'{name:<{names}}  {value:<{values}}  {location}' for name, value, location in sorted(rows))
