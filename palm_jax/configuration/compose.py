"""gin text that programs write: files to include and bindings, rendered from Python values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from palm_jax.configuration.statements import Import, Macro, Reference, Statement, held


def compose(includes: Sequence[str], bindings: Mapping[str, Any] | None = None) -> str:
    """Return gin text that includes files and then binds names, which override the files.

    Args:
      includes: gin files, relative to the working directory or to the package.
      bindings: values by name, as in `render`.
    """
    lines = [f'include {name!r}' for name in includes]
    lines += ['', *(f'{name} = {render(value)}' for name, value in (bindings or {}).items())] if bindings else []
    return '\n'.join(lines) + '\n'


def render(value: Any) -> str:
    """Return a value as gin text.

    Args:
      value: None, a string, number or truth value, a macro, a reference, or a list, tuple or dict of such values.

    Raises:
      TypeError: gin has no text for this type.
    """
    match value:
        case Macro():
            return f'%{value.name}'
        case Reference():
            return f'@{value.name}{"()" if value.evaluated else ""}'
        case dict():
            return f'{{{", ".join(f"{render(k)}: {render(v)}" for k, v in value.items())}}}'
        case list():
            return f'[{", ".join(map(render, value))}]'
        case tuple():
            return f'({", ".join(map(render, value))}{"," if len(value) == 1 else ""})'
        case None | bool() | int() | float() | str():
            return repr(value)
    raise TypeError(f'{value!r} has no text in gin.')


def render_file(statements: Sequence[Statement], imports: Sequence[Import]) -> str:
    """Return bindings and the imports that they need as gin text; empty without bindings."""
    if not statements:
        return ''
    lines = sorted({imported.line for imported in imports}, key=lambda line: ('__gin__' not in line, line))
    lines += [f'{statement.name} = {render(statement.value)}' for statement in statements]
    return '\n'.join(lines) + '\n'


def select_used(overlay: Sequence[Statement], statements: Sequence[Statement]) -> list[Statement]:
    """Return the bindings of an overlay that have an effect on a configuration.

    A binding of a macro has an effect if the macro is defined or read elsewhere; a binding of a parameter if its
    part is bound or referred to elsewhere. "Elsewhere" is the configuration, or what is selected of the overlay.

    Args:
      overlay: bindings to choose from, in order.
      statements: bindings of the configuration.
    """
    bound = {s.name if s.is_macro else s.selector for s in statements}
    selected: list[Statement] = []
    while True:
        known = bound | {
            item.name
            for statement in (*statements, *selected)
            for kind in (Macro, Reference)
            for item in held(statement.value, kind)
        }
        found = [s for s in overlay if (s.name if s.is_macro else s.selector) in known]
        if len(found) == len(selected):
            return selected
        selected = found
