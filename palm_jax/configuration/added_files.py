"""Gin files that are added to a run and set the same thing: the second must not replace the first in silence."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from palm_jax.configuration import gin_adapter
from palm_jax.configuration.compose import render
from palm_jax.configuration.statements import Macro, Reference, Statement
from palm_jax.errors import UserError


def refuse_lost_items(parts: Sequence[Sequence[Statement]], statements: Sequence[Statement]) -> None:
    """Refuse two added files that both set a list which is empty without them, and one that empties it again.

    Called once gin has parsed the statements, so that the classes of the items are known.

    Args:
      parts: statements of each file that was named, with those that it includes; the first is the run's own.
      statements: all statements, with those of flags.

    Raises:
      UserError: with the list of all items to type, loss wrappers from the inside out, or the order of the files.
    """
    first, effective = {s.name: s for s in reversed(statements)}, {s.name: s for s in statements}
    of_run = {s.name: s for s in parts[0]}
    for name in [name for name, s in first.items() if s.is_macro and s.value == []]:
        if name in of_run and of_run[name].value:
            continue  # the run's own file has filled it, and a file that is added takes the place of that
        added = _added(parts, name)
        setters = [s for s in added if isinstance(s.value, list) and s.value]
        if setters and effective[name] in added and effective[name].value == []:
            raise UserError(
                f'{effective[name].location}: {name} would be empty again, which {setters[-1].location} sets. Name the '
                'file of the head first, and then that of the method.'
            )
        given = {render(item): item for s in setters for item in s.value}
        items = sorted(given, key=lambda shown: _stage(given[shown]))
        if len(setters) > 1 and effective[name] is setters[-1] and len(items) > len(setters[-1].value):
            raise UserError(
                f'{setters[-1].location}: {name} would replace that of {setters[-2].location}. Name all of them in one '
                f'list: --gin.{name}="[{", ".join(items)}]"'
            )


def refuse_lost_wrappers(parts: Sequence[Sequence[Statement]], statements: Sequence[Statement]) -> None:
    """Refuse two added files that both wrap what an argument of the run is, such as its data, each around the same.

    Args:
      parts, statements: see `refuse_lost_items`.

    Raises:
      UserError: with the flags that put one wrapper around the other.
    """
    effective = {s.name: s for s in statements}
    for name, of_run in {s.name: s for s in parts[0] if not s.is_macro and isinstance(s.value, Macro)}.items():
        setters = [s for s in _added(parts, name) if isinstance(s.value, Reference)]
        locations = {s.value.name: s.location for s in setters}
        inside = {
            wrapper: s.name for wrapper in locations for s in statements
            if s.selector == wrapper and not s.is_macro and s.value == of_run.value
        }  # fmt: skip
        if effective[name] in setters and set(inside) - _chain(effective[name], inside, effective):
            order = sorted(
                inside, key=lambda wrapper: not getattr(gin_adapter.function(wrapper), 'is_innermost', False)
            )
            flags = [f'--gin.{inside[outer]}="@{inner}()"' for inner, outer in itertools.pairwise(order)]
            if effective[name].value.name != order[-1]:
                flags.append(f'--gin.{name}="@{order[-1]}()"')
            _, *earlier = reversed([locations[wrapper] for wrapper in inside])
            raise UserError(
                f'{effective[name].location}: {name} would replace that of {" and ".join(earlier)}. Put one around the '
                f'other: {" ".join(flags)}'
            )


def _added(parts: Sequence[Sequence[Statement]], name: str) -> list[Statement]:
    """Return the bindings of a name that hold in each file that is added to the run's own."""
    return [found[name] for part in parts[1:] if name in (found := {s.name: s for s in part})]


def _stage(item: Any) -> int:
    """Return how far outside a loss wrapper must be, see `LossWrapper.stage`; 0 for other items."""
    return getattr(gin_adapter.function(item.name), 'stage', 0) if isinstance(item, Reference) else 0


def _chain(outermost: Statement, inside: Mapping[str, str], effective: Mapping[str, Statement]) -> set[str]:
    """Return the wrappers that a binding reaches, each inside the one before."""
    found, value = set[str](), outermost.value
    while isinstance(value, Reference) and value.name in inside and value.name not in found:
        found.add(value.name)
        value = effective[inside[value.name]].value
    return found
