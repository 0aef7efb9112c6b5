"""What merging into a quantized base changes: the held-out part is evaluated before and after."""

from __future__ import annotations

import dataclasses
from typing import Any

from palm_jax.api import evaluation
from palm_jax.api.trained_model import TrainedModel
from palm_jax.errors import UserError
from palm_jax.peft.method import AdaptedModel


def change_of_score(model: TrainedModel, merged: Any) -> str:
    """Evaluate a model with its methods on a quantized base, and the merged weights alone.

    Args:
      model: model with methods on a base in 8 or 4 bits.
      merged: result of its `merged`.

    Returns:
      Lines with every metric of the held-out part before and after merging, and the change; one line where the
      held-out part cannot be read any more.
    """
    weights = model.run.get('base_weights', 'stored')
    title = f'merged     the base was dequantized from {weights}, and what was trained was added in float32'
    alone = dataclasses.replace(model, model=AdaptedModel(model.model.model), params=merged)
    try:
        before, after = (evaluation.on_held_out(each)['metrics'] for each in (model, alone))
    except (UserError, OSError) as error:
        return f'{title}; not evaluated again: {error}'
    rows = [f'    {"held-out part":<24}{"before":>10}{"merged":>10}{"change":>10}']
    rows += [f'    {name:<24}{b:>10.4f}{after[name]:>10.4f}{after[name] - b:>+10.4f}' for name, b in before.items()]
    return '\n'.join([title, *rows])
