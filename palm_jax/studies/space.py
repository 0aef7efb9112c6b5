"""The space of a search: for every macro a choice of values, or a range."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from palm_jax.configuration.compose import render
from palm_jax.errors import UserError

if TYPE_CHECKING:
    import optuna

_HELP = "write ['a', 'b'] for a choice, (0.0, 0.3) for a range, ('log', 1e-4, 1e-2) for a range on a logarithmic scale"


def check(space: Mapping[str, Any]) -> None:
    """Refuse what is neither a choice nor a range.

    Raises:
      UserError: names the macro.
    """
    for name, values in space.items():
        if isinstance(values, list):
            if not values:
                raise UserError(f'SPACE[{name!r}] is an empty list; {_HELP}.')
            continue
        low, high = _ends(name, values)
        if not low < high:
            raise UserError(f'SPACE[{name!r}] is {values!r}; the first end of a range must be below the second.')
        if _is_log(values) and low <= 0:
            raise UserError(f'SPACE[{name!r}] is {values!r}; a range on a logarithmic scale must begin above 0.')


def _is_log(values: Any) -> bool:
    return len(values) == 3


def _ends(name: str, values: Any) -> tuple[Any, Any]:
    is_range = isinstance(values, tuple) and (len(values) == 2 or (len(values) == 3 and values[0] == 'log'))
    if not is_range or not all(isinstance(end, int | float) and not isinstance(end, bool) for end in values[-2:]):
        raise UserError(f'SPACE[{name!r}] is {values!r}; {_HELP}.')
    return values[-2], values[-1]


def suggest(trial: optuna.trial.BaseTrial, space: Mapping[str, Any]) -> list[str]:
    """Return the flags `--gin.NAME=value` that a trial draws; a range with whole ends gives whole numbers."""
    return [f'--gin.{name}={_value(trial, name, values)}' for name, values in space.items()]


def _value(trial: optuna.trial.BaseTrial, name: str, values: Any) -> str:
    if isinstance(values, list):  # by their text, as optuna takes no lists as choices
        return str(trial.suggest_categorical(name, [render(value) for value in values]))
    low, high = _ends(name, values)
    if isinstance(low, int) and isinstance(high, int):
        return render(trial.suggest_int(name, low, high, log=_is_log(values)))
    return render(trial.suggest_float(name, low, high, log=_is_log(values)))


def first_values(space: Mapping[str, Any]) -> Sequence[str]:
    """Return flags with the first value of every choice and the lower end of every range."""
    return [f'--gin.{name}={render(v[0] if isinstance(v, list) else _ends(name, v)[0])}' for name, v in space.items()]
