"""Strict gin: what gin lets pass in silence is an error here, with the place and the nearest name."""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Sequence
from typing import Any

import gin

from palm_jax.configuration import types
from palm_jax.configuration.statements import (
    Macro,
    Reference,
    Statement,
    find,
    held,
    read_file,
    read_flag,
    register_search_paths,
)
from palm_jax.errors import UserError, closest

_CALL_TRACE = re.compile(r'\n?\s*In call to configurable.*', re.DOTALL)


@dataclasses.dataclass(frozen=True)
class Configuration:
    """A loaded configuration.

    Attributes:
      statements: every binding in the order in which it was read; the last of a name holds.
      text: the whole configuration as one gin file.
    """

    statements: tuple[Statement, ...]
    text: str

    @property
    def effective(self) -> dict[str, Statement]:
        """The binding that holds, by name."""
        return {statement.name: statement for statement in self.statements}

    def macro(self, name: str, default: Any = None) -> Any:
        """A macro's value where it is a plain one."""
        statement = self.effective.get(name)
        return default if statement is None else statement.value

    def build(self, root: str) -> dict[str, Any]:
        """The arguments of the root function, everything below it built.

        Raises:
          UserError: a binding that nothing used, or whatever the parts refuse.
        """
        try:
            arguments = gin.get_bindings(root)
        except UserError as error:
            raise UserError(_CALL_TRACE.sub('', str(error)).strip()) from None
        except TypeError as error:
            raise UserError(self._missing(str(error))) from None
        except ValueError as error:
            raise UserError(_CALL_TRACE.sub('', str(error)).strip()) from None
        self._refuse_unused(root)
        return arguments

    def _missing(self, message: str) -> str:
        names = re.findall(r"'(\w+)'", message.split('positional argument')[-1])
        function = re.search(r"In call to configurable '([\w.]+)'", message)
        what = function[1] if function else _CALL_TRACE.sub('', message)
        wanted = ', '.join(f'{what}.{name}' for name in names)
        return f'{_CALL_TRACE.sub("", message).strip()}\nBind what is missing: {wanted or what} = ...'

    def _refuse_unused(self, root: str) -> None:
        used = gin.config._OPERATIVE_CONFIG  # noqa: SLF001 - the only record of what was used
        used_names = {selector for (_, selector) in used}
        for statement in self.effective.values():
            if statement.is_macro:
                continue
            scope, _, name = statement.name.rpartition('/')
            selector, _, parameter = name.rpartition('.')
            full = _selector(selector)
            if full == _selector(root):
                continue
            if full not in used_names:
                raise UserError(
                    f'{statement.place}: {statement.name} has no effect: nothing in this configuration uses '
                    f'{selector}.\nIn use: {", ".join(sorted(_short(n) for n in used_names))}.'
                )


def load(gin_files: Sequence[str], flags: Sequence[tuple[str, str]]) -> Configuration:
    """Reads files, then flags over them, checks both and hands them to gin.

    Args:
      gin_files: paths, looked for beside the caller, then in the package.
      flags: (NAME, value) of every `--gin.NAME=value`.

    Raises:
      UserError: with the place and the nearest right name.
    """
    gin.clear_config()
    register_search_paths()
    statements: list[Statement] = []
    imports: list[str] = []
    for name in gin_files:
        file_statements, file_imports = read_file(find(name, '--gin_file'))
        statements += file_statements
        imports += file_imports
    _refuse_unknown_flags(flags, statements)
    flag_lines = []
    for name, value in flags:
        statement, line = read_flag(name, value)
        statements.append(statement)
        flag_lines.append(line)
    _check_macros(statements)
    _hand_to_gin(gin_files, imports, flag_lines, statements)
    _check_types(statements)
    return Configuration(tuple(statements), gin.config_str(max_line_length=100))


def _refuse_unknown_flags(flags: Sequence[tuple[str, str]], statements: Sequence[Statement]) -> None:
    """A flag that names a macro names one the files know: gin would define a new one in silence."""
    macros = {s.name for s in statements if s.is_macro} | _used_macros(statements)
    for name, value in flags:
        if '.' not in name and name not in macros:
            raise UserError(
                f'command line, --gin.{name}={value}: no macro is called {name}.{closest(name, macros)}\n'
                f'Macros here: {", ".join(sorted(macros))}.'
            )


def _used_macros(statements: Sequence[Statement]) -> set[str]:
    return {macro.name for s in statements for macro in held(s.value, Macro)}


def _check_macros(statements: Sequence[Statement]) -> None:
    effective = {s.name: s for s in statements}
    defined = {name for name, s in effective.items() if s.is_macro}
    for statement in effective.values():
        for macro in held(statement.value, Macro):
            if macro.name not in defined and macro.name != 'gin.REQUIRED':
                raise UserError(
                    f'{statement.place}: %{macro.name} is not defined.{closest(macro.name, defined)}\n'
                    f'Give it with --gin.{macro.name}=... Defined: {", ".join(sorted(defined))}.'
                )
            if macro.name == 'gin.REQUIRED':
                raise UserError(f'{statement.place}: {statement.name} must be given: --gin.{statement.name}=...')
    # Every use counts, also one that a later binding replaced: swapping a part must not orphan its knobs.
    used = _used_macros(statements)
    for name in sorted(defined - used):
        raise UserError(
            f'{effective[name].place}: nothing uses the macro {name}.{closest(name, used - {name})}\n'
            f'Used here: {", ".join(sorted(used))}.'
        )


def _hand_to_gin(gin_files, imports, flag_lines, statements) -> None:
    """Parses for real; a flag may name what the files' imports reach."""
    try:
        for name in gin_files:
            gin.parse_config_file(str(find(name, '--gin_file')))
        preamble = sorted(set(imports), key=lambda line: '__gin__' not in line)
        gin.parse_config([*preamble, *flag_lines])
        gin.finalize()
    except UserError:
        raise
    except Exception as error:  # gin raises bare exceptions of many types; all of them are about the text
        raise UserError(_explain(error, statements)) from None


def _explain(error: Exception, statements: Sequence[Statement]) -> str:
    message = str(error).strip()
    first = message.splitlines()[0] if message else type(error).__name__
    match = re.search(r'In (?:file "([^"]+)"|bindings string), line (\d+)', message)
    place = ''
    if match and match[1]:
        place = f'{match[1]}, line {match[2]}: '
    quoted = re.findall(r"'([^']+)'", first)
    candidates = _known_names()
    hint = ''
    for statement in statements:
        scope, _, name = statement.name.rpartition('/')
        selector, _, parameter = name.rpartition('.')
        references = [r.name for r in held(statement.value, Reference)]
        if parameter in quoted and "doesn't have a parameter" in first and _same(selector, quoted[0]):
            place, hint = f'{statement.place}: ', _parameter_hint(selector, parameter)
            first = f'{selector} has no parameter {parameter}.'
            break
        wrong = next((n for n in (selector, *references) if n and n in quoted), None)
        if wrong and 'No configurable' in first:
            place = f'{statement.place}: '
            first = f'nothing is called {wrong}.{closest(wrong, candidates)}'
            hint = f'\nKnown: {", ".join(sorted(candidates))}.' if len(candidates) < 60 else ''
            break
        if wrong or (quoted and any(q.rsplit('.', 1)[-1] in name.split('.') for q in quoted)):
            place = f'{statement.place}: '
    return f'{place}{first}{hint}'


def _same(selector: str, other: str) -> bool:
    return selector.endswith(other) or other.endswith(selector)


def _parameter_hint(selector: str, parameter: str) -> str:
    names = [n for n in inspect.signature(_function(_selector(selector))).parameters if n not in ('self', 'parent', 'name')]
    return f'{closest(parameter, names)}\nIt has: {", ".join(names)}.'


def _known_names() -> list[str]:
    return [_short(s) for s in gin.config._REGISTRY.selector_map if not s.startswith('gin.')]  # noqa: SLF001


def _selector(name: str) -> str:
    """gin's full name of a configurable, from any unambiguous end of it."""
    try:
        return gin.config._REGISTRY.complete_selector(name) if hasattr(gin.config._REGISTRY, 'complete_selector') else (  # noqa: SLF001
            gin.config._REGISTRY.get_match(name).selector  # noqa: SLF001
        )
    except (KeyError, AttributeError):
        return name


def _function(selector: str) -> Any:
    return gin.config._REGISTRY.get_match(selector).wrapped  # noqa: SLF001


def _short(selector: str) -> str:
    return '.'.join(selector.split('.')[-2:])


def _check_types(statements: Sequence[Statement]) -> None:
    """A string where a number belongs is an error now, not in the middle of a run."""
    effective = {s.name: s for s in statements}
    for statement in effective.values():
        if statement.is_macro:
            continue
        selector, _, parameter = statement.name.rpartition('/')[2].rpartition('.')
        hint = types.hints_of(_function(_selector(selector))).get(parameter)
        if hint is None:
            continue
        culprit = statement
        while isinstance(culprit.value, Macro) and culprit.value.name in effective:
            culprit = effective[culprit.value.name]
        if isinstance(culprit.value, Macro | Reference) or any(held(culprit.value, (Macro, Reference))):
            continue
        if not types.fits(culprit.value, hint):
            via = '' if culprit is statement else f' ({selector}.{parameter})'
            raise UserError(
                f'{culprit.place}: {culprit.name}{via} must be {types.describe(hint)}, '
                f'but it is {culprit.value!r}, {_kind(culprit.value)}.{_near_literal(culprit.value, hint)}'
            )


def _near_literal(value: Any, hint: Any) -> str:
    choices = [c for c in getattr(hint, '__args__', ()) if isinstance(c, str)]
    return closest(value, choices) if isinstance(value, str) and choices else ''


def _kind(value: Any) -> str:
    names = {str: 'a text', int: 'a whole number', float: 'a fraction', bool: 'a truth value', type(None): 'nothing'}
    return names.get(type(value), f'a {type(value).__name__}')
