"""What a run will do, before it does it: needs no accelerator and allocates no parameter."""

from __future__ import annotations

from typing import Any

import jax

from palm_jax.configuration.load import Configuration
from palm_jax.configuration.statements import Macro, Reference
from palm_jax.training.batch_sizes import BatchSizes
from palm_jax.training.plan import Plan
from palm_jax.training.state import init_state

_SHOWN_TOKENS = 48


def explain(configuration: Configuration, arguments: dict[str, Any], num_devices: int | None) -> str:
    """The resolved configuration with sources, an example, the parameters, memory and work.

    Args:
      configuration: where every value came from.
      arguments: of `loop.train`, built.
      num_devices: to plan for; None asks the layout, and where it says "all", this machine.
    """
    layout, data, model = arguments['layout'], arguments['data'], arguments['model']
    if num_devices is None:
        num_devices = jax.device_count() if layout.data == -1 else layout.data * layout.model
    axis_sizes = layout.axis_sizes(num_devices)
    boxed = jax.eval_shape(lambda rng: init_state(model, arguments['optimizer'], rng), jax.random.key(0))
    layout.check(boxed.params, axis_sizes)
    sizes = BatchSizes.of(arguments['batch_size'])
    plan = Plan(model, boxed, layout, axis_sizes, sizes, data.length, arguments['total_steps'])
    example, num_sequences = _example(data)
    sections = {
        'configuration': _sources(configuration),
        'one training example': example,
        'parameters': plan.parameter_table(),
        f'the run on {num_devices} device(s)': plan.summary(num_sequences),
    }
    return '\n\n'.join(f'## {title}\n{body}' for title, body in sections.items())


def _sources(configuration: Configuration) -> str:
    rows = [(s.name, _as_gin(s.value), s.place) for s in configuration.effective.values()]
    names = max(len(name) for name, _, _ in rows)
    values = min(48, max(len(value) for _, value, _ in rows))
    return '\n'.join(f'{name:<{names}}  {value:<{values}}  {place}' for name, value, place in sorted(rows))


def _as_gin(value: Any) -> str:
    """A value as it would be written in a gin file."""
    if isinstance(value, Macro):
        return f'%{value.name}'
    if isinstance(value, Reference):
        return f'@{value.name}' + ('()' if value.evaluated else '')
    if isinstance(value, list | tuple):
        inner = ', '.join(map(_as_gin, value))
        return f'[{inner}]' if isinstance(value, list) else f'({inner})'
    return repr(value)


def _example(data: Any) -> tuple[str, int | None]:
    """Tokens of the first training sequence that the loss counts, and the number of sequences."""
    path = data.vocabulary_path
    if path is not None and not path.is_file():
        text = data.preview()
        return f'The vocabulary {path} does not exist yet; the first run makes it. The text begins:\n{text}', None
    batch = data.batch(0, 1)
    rows = ['position  input → target, ✓ where the loss counts it']
    inputs, targets, weights = (
        batch[f'decoder_{name}'][0] for name in ('input_tokens', 'target_tokens', 'loss_weights')
    )
    for i in range(min(_SHOWN_TOKENS, len(targets))):
        source, target = (repr(data.vocabulary.decode([int(t)])) for t in (inputs[i], targets[i]))
        rows.append(f'{i:>8}  {inputs[i]:>6} {source:<18} → {targets[i]:>6} {target:<18} {"✓" if weights[i] else "·"}')
    rows.append(f'... {len(targets) - _SHOWN_TOKENS} more')
    return '\n'.join(rows), data.num_sequences
