"""Parts of a mixture: their rates, and their texts in turn."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TypeAlias

from palm_jax.bounds import Weight
from palm_jax.errors import UserError

BINDING = 'MIXTURE_OR_TASK_NAME'
Names: TypeAlias = str | Sequence[str] | Mapping[str, Weight]


def rates_of(task: Names) -> list[tuple[str, float | None]]:
    """Return names with their rates; None is by size."""
    if isinstance(task, str):
        return [(task, None)]
    rates: dict[str, float | None] = dict(task) if isinstance(task, Mapping) else dict.fromkeys(task)
    if not rates or len(rates) < len(task):
        raise UserError(f'{BINDING} = {task!r}: a mixture needs at least one part, and each part once.')
    for name, rate in rates.items():
        if not isinstance(name, str):
            raise UserError(f'{BINDING}: {name!r} is not the name of a task, a file or a folder.')
        if rate is not None and not (isinstance(rate, int | float) and rate > 0):
            raise UserError(f'{BINDING}: the rate of {name!r} is {rate!r}; it must be a number above 0.')
    return list(rates.items())


def interleave(parts: Mapping[str, tuple[Iterator[str], float]]) -> Iterator[str]:
    """Yield the texts of all parts; the next part is the one furthest behind its rate in characters."""
    texts = {name: iterator for name, (iterator, _) in parts.items()}
    taken = dict.fromkeys(parts, 0.0)
    while texts:
        name = min(texts, key=lambda part: taken[part])
        text = next(texts[name], None)
        if text is None:
            del texts[name]
        else:
            taken[name] += len(text) / parts[name][1]
            yield text
