"""Which code the configuration of a run may name: a run that somebody else made is data, not a program.

gin imports whatever a file imports and calls whatever it refers to. Programs that only use a run therefore take from
its `config.gin` the configurables that palm_jax's own gin files name, and what the user trusts by name.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from palm_jax.configuration import reference
from palm_jax.configuration.statements import Import, Reference, Statement, held, open_file, read_statements
from palm_jax.errors import UserError

_PACKAGE = 'palm_jax'
_FEATURES = ('__gin__',)  # imports that turn features of gin on
_BUILTINS = ('gin.macro', 'gin.constant', 'gin.singleton')  # what gin defines itself
_SHOWN = 5


@dataclasses.dataclass(frozen=True)
class Trust:
    """What the configuration of a run may name.

    Attributes:
      modules: modules besides those of palm_jax, each with the modules below it, whose own functions and classes the
        configuration may name: `my_package` covers `my_package.heads`.
    """

    modules: tuple[str, ...] = ()

    def extended_by(self, imports: Iterable[Import]) -> Trust:
        """Return a trust that covers the modules outside palm_jax that a file of the user imports, too."""
        named = [line.module for line in imports if not _is_below(line.module, (*_FEATURES, _PACKAGE))]
        return Trust((*self.modules, *named))

    def check(self, statements: Sequence[Statement], imports: Sequence[Import]) -> None:
        """Refuse a configuration that names anything else, before gin has seen it.

        Args:
          statements: bindings of the configuration and of all files that it includes.
          imports: their imports.

        Raises:
          UserError: with the location of every import and name that is refused.
        """
        refused = {line.location: line.line for line in imports if not self._may_import(line.module)}
        advised = [line.module for line in imports if line.location in refused]
        if not refused:  # the names that trusted modules define are looked up in them
            for statement in statements:
                for name, is_reference in _names(statement):
                    paths = list(_paths(name, imports))
                    if not all(self._may_name(path, is_reference) for path in paths or [name]):
                        refused[statement.location] = f'{"@" if is_reference else ""}{name}'
                        advised += [line.module for line in imports if f'{line.module}.{_last(name)}' in paths]
        if refused:
            raise UserError(_message([f'  {location}: {text}' for location, text in refused.items()], advised))

    def _may_import(self, module: str) -> bool:
        return _is_below(module, (*_FEATURES, *self.modules)) or module in _known().modules

    def _may_name(self, path: str, is_reference: bool) -> bool:
        known = _known()
        if path in known.referred or (path in known.bound and not is_reference) or path in _BUILTINS:
            return True
        return _is_below(path, self.modules) and _is_below(_defining_module(path), self.modules)


@dataclasses.dataclass(frozen=True)
class _Known:
    """What the gin files of the package import, bind and refer to, by full names."""

    modules: frozenset[str]
    bound: frozenset[str]
    referred: frozenset[str]


@functools.cache
def _known() -> _Known:
    modules: set[str] = set()
    names: dict[bool, set[str]] = {True: set(), False: set()}
    for file in reference.package_files():
        statements, imports = read_statements(open_file(file), with_includes=False)
        modules |= {line.module for line in imports}
        for statement in statements:
            for name, is_reference in _names(statement):
                names[is_reference].update(_paths(name, imports))
    return _Known(frozenset(modules), frozenset(names[False]), frozenset(names[True]))


def _message(lines: Sequence[str], advised: Iterable[str]) -> str:
    more = [f'  and {len(lines) - _SHOWN} more'] if len(lines) > _SHOWN else []
    told = 'This run names code that is not a configurable of palm_jax; loading the run would execute that code:'
    modules = list(dict.fromkeys(advised))
    advice = 'Ask whoever made the run what it is for.'
    if modules:
        flag = f'--trust_modules={",".join(modules)} (in Python: trust_modules={modules!r})'
        advice = f'If you know the code and trust it, add {flag}.'
    return '\n'.join([told, *lines[:_SHOWN], *more, advice])


def _names(statement: Statement) -> Iterator[tuple[str, bool]]:
    """Yield the configurables that a statement binds or refers to, without scopes, and whether it refers to them."""
    if not statement.is_macro:
        yield statement.selector, False
    for item in held(statement.value, Reference):
        yield item.name.rpartition('/')[2], True


def _paths(name: str, imports: Sequence[Import]) -> Iterator[str]:
    """Yield the full names that `module.Class` may have by each import of its first part; gin takes the last one."""
    first, _, rest = name.partition('.')
    for line in imports:
        if line.bound_name == first and not _is_below(line.module, _FEATURES):
            is_whole_path = line.line == f'import {line.module}'  # `import a.b` binds `a`
            yield name if is_whole_path else f'{line.module}.{rest}'


def _last(name: str) -> str:
    return name.rpartition('.')[2]


def _is_below(path: str, modules: Iterable[str]) -> bool:
    return any(path == module or path.startswith(f'{module}.') for module in modules)


def _defining_module(path: str) -> str:
    """Return the module that defines what a name is bound to; empty if there is no such name."""
    parts = path.split('.')
    for length in range(len(parts) - 1, 0, -1):
        try:
            found: Any = importlib.import_module('.'.join(parts[:length]))
        except ModuleNotFoundError:
            continue
        for attribute in parts[length:]:
            found = getattr(found, attribute, None)
        return getattr(found, '__module__', None) or ''
    return ''
