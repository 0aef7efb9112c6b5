"""Strict gin: what gin lets pass in silence is an error here, with the place and the nearest name."""

from __future__ import annotations

import dataclasses
import inspect
import logging
import re
import sys
from collections.abc import Callable, Sequence
from typing import Any

import gin
from palm_jax.configuration import renames, types
from palm_jax.configuration.compose import render_file, select_used
from palm_jax.configuration.statements import (
    GinText,
    Import,
    Macro,
    Reference,
    Statement,
    entry_files,
    find_config,
    held,
    open_file,
    read_flag,
    read_statements,
    register_search_paths,
)
from palm_jax.errors import UserError, closest

_OF_THE_PROGRAM = ('repeat.over_seeds',)  # what `palm_jax.train` itself reads
_CALL_TRACE = re.compile(r'\n?\s*In call to configurable.*', re.DOTALL)


@dataclasses.dataclass
class Configuration:
    """A loaded configuration.

    Attributes:
      statements: every binding in the order in which it was read; the last of a name holds.
      text: once it is built, what is in effect as one gin file that makes the same again.
    """

    statements: tuple[Statement, ...]
    text: str = dataclasses.field(default='', init=False)

    @property
    def effective(self) -> dict[str, Statement]:
        """The binding that holds, by name."""
        return {statement.name: statement for statement in self.statements}

    def macro(self, name: str, default: Any = None) -> Any:
        """A macro's value where it is a plain one."""
        statement = self.effective.get(name)
        return default if statement is None else statement.value

    def bound(self, name: str) -> Any:
        """The value that one plain parameter of the program itself has, None where nothing binds it."""
        statement = self.effective.get(name)
        while statement is not None and isinstance(statement.value, Macro):
            statement = self.effective.get(statement.value.name)
        return None if statement is None else statement.value

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
        self.text = self._in_effect(root)
        return arguments

    def _in_effect(self, root: str) -> str:
        """gin's text of all bindings but those of what was swapped out."""
        operative = _operative(root, *_OF_THE_PROGRAM)
        dead = self._replaced(operative) - operative
        living = [s for s in self.effective.values() if not s.is_macro and _selector(s.selector) not in dead]
        macros = set().union(*map(self._macros_below, living))
        whole = dict(gin.config._CONFIG)
        try:
            for scope, selector in whole:
                if selector in dead or (selector == 'gin.macro' and scope not in macros):
                    del gin.config._CONFIG[scope, selector]
            return gin.config_str(max_line_length=100)
        finally:
            gin.config._CONFIG.update(whole)

    def _missing(self, message: str) -> str:
        names = re.findall(r"'(\w+)'", message.split('positional argument')[-1].partition('\n')[0])
        function = re.search(r"In call to configurable '([\w.]+)'", message)
        what = function[1] if function else _CALL_TRACE.sub('', message)
        wanted = ', '.join(f'{what}.{name}' for name in names)
        return f'{_CALL_TRACE.sub("", message).strip()}\nBind what is missing: {wanted or what} = ...'

    def _refuse_unused(self, root: str) -> None:
        """Every binding must have reached something; a part that was swapped out keeps its own in silence."""
        operative = _operative(root, *_OF_THE_PROGRAM)
        replaced = self._replaced(operative)
        reached: set[str] = set()
        for statement in self.effective.values():
            if statement.is_macro:
                continue
            selector = _selector(statement.selector)
            if selector in operative:
                reached |= self._macros_below(statement)
            elif statement.on_command_line or selector not in replaced:
                names = sorted(_short(name) for name in operative if not name.startswith('gin.'))
                raise UserError(
                    f'{statement.location}: {statement.name} has no effect, nothing here uses {statement.selector}.\n'
                    f'In use: {", ".join(names)}.'
                )
        for statement in self.effective.values():
            if statement.is_macro and statement.on_command_line and statement.name not in reached:
                raise UserError(
                    f'{statement.location}: {statement.name} has no effect, nothing that is in use reads it.'
                    f'{closest(statement.name, reached)}\nIn use: {", ".join(sorted(reached))}.'
                )

    def _replaced(self, operative: set[str]) -> set[str]:
        """What later bindings swapped out, and whatever that was made of, directly or through macros."""
        effective = self.effective
        referring = [(s, effective[s.name] is not s, r.name) for s in self.statements for r in held(s.value, Reference)]
        readers: dict[str, list[Statement]] = {}
        for statement in effective.values():
            for macro in held(statement.value, Macro):
                readers.setdefault(macro.name, []).append(statement)
        replaced: set[str] = set()

        def is_dead(statement: Statement) -> bool:
            if statement.is_macro:
                return statement.name in readers and all(map(is_dead, readers[statement.name]))
            return _selector(statement.selector) in replaced - operative

        while True:
            found = {_selector(name) for owner, was_overridden, name in referring if was_overridden or is_dead(owner)}
            if found <= replaced:
                return replaced
            replaced |= found

    def _macros_below(self, statement: Statement) -> set[str]:
        """The macros that a binding reads, directly or through others."""
        names = {macro.name for macro in held(statement.value, Macro)}
        nested = [self._macros_below(self.effective[name]) for name in names if name in self.effective]
        return names.union(*nested)


def _operative(*programs: str) -> set[str]:
    """The selectors of what gin has called since it was configured, and of what the program calls itself."""
    return {selector for _, selector in gin.config._OPERATIVE_CONFIG} | set(map(_selector, programs))


def load(
    root: str, gin_files: Sequence[str], flags: Sequence[tuple[str, str]], overlay: str | None = None
) -> Configuration:
    """Reads files, then flags over them, checks both and hands them to gin.

    Args:
      root: the function that the program calls, e.g. `loop.train`.
      gin_files: paths, looked for beside the caller, then in the package.
      flags: (NAME, value) of every `--gin.NAME=value`.
      overlay: gin text that overrides the first file, as far as the files use what it binds; see `compose`.

    Raises:
      UserError: with the place and the nearest right name.
    """
    gin.clear_config()
    register_search_paths()
    sources = [_open(name) for name in gin_files]
    statements: list[Statement] = []
    imports: list[Import] = []
    if overlay is not None:
        sources.insert(1, _as_far_as_used(GinText(overlay, 'overlay'), sources))
    for source in sources:
        file_statements, file_imports = read_statements(source)
        statements += file_statements
        imports += file_imports
    if not any(statement.selector == root for statement in statements):
        raise UserError(
            f'{", ".join(gin_files)} binds nothing of {root}: a part, not a whole run. '
            f'Entry files: {", ".join(entry_files())}.'
        )
    given = [read_flag(name, value) for name, value in flags]
    renames.refuse_old_names([*statements, *(statement for statement, _ in given)], imports)
    _refuse_unknown_flags(flags, statements)
    statements += [statement for statement, _ in given]
    _check_macros(statements)
    _hand_to_gin(sources, imports, [line for _, line in given], statements)
    _check_types(statements)
    return Configuration(tuple(statements))


def _open(name: str) -> GinText:
    """Read a gin file; the configuration of an earlier run gets the names of today."""
    path = find_config(name, '--gin_file')
    source = open_file(path)
    return dataclasses.replace(source, text=renames.translate(source.text)) if renames.is_run_config(path) else source


def _as_far_as_used(overlay: GinText, sources: Sequence[GinText]) -> GinText:
    """Return an overlay without the bindings that have no effect on the given texts."""
    bindings, imports = read_statements(overlay)
    statements = [statement for source in sources for statement in read_statements(source)[0]]
    return dataclasses.replace(overlay, text=render_file(select_used(bindings, statements), imports))


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
                    f'{statement.location}: %{macro.name} is not defined.{closest(macro.name, defined)}\n'
                    f'Give it with --gin.{macro.name}=... Defined: {", ".join(sorted(defined))}.'
                )
            if macro.name == 'gin.REQUIRED':
                raise UserError(f'{statement.location}: {statement.name} must be given: --gin.{statement.name}=...')
    # Every use counts, also one that a later binding replaced: swapping a part must not orphan its knobs.
    used = _used_macros(statements)
    for name in sorted(defined - used):
        raise UserError(
            f'{effective[name].location}: nothing uses the macro {name}.{closest(name, used - {name})}\n'
            f'Used here: {", ".join(sorted(used))}.'
        )


def _hand_to_gin(sources, imports, flag_lines, statements) -> None:
    """Parses for real; a flag may name what the files' imports reach."""
    logging.disable(logging.ERROR)  # gin reports every place where it looked for an include
    try:
        for source in sources:
            gin.parse_config(source.as_file())
        preamble = sorted({imported.line for imported in imports}, key=lambda line: '__gin__' not in line)
        gin.parse_config([*preamble, *flag_lines])
        gin.finalize()
    except UserError:
        raise
    except Exception as error:  # gin raises bare exceptions of many types; all of them are about the text
        raise UserError(_explain(error, statements)) from None
    finally:
        logging.disable(logging.NOTSET)


def _explain(error: Exception, statements: Sequence[Statement]) -> str:
    """gin's complaint with its place in the user's text and the nearest right name."""
    message = str(error).strip()
    complaint = message.splitlines()[0] if message else type(error).__name__
    if match := re.match(r"Configurable '(.+)' doesn't have a parameter named '(\w+)'", complaint):
        location = _location(statements, lambda s: s.selector == match[1] and s.parameter == match[2])
        parameters = inspect.signature(_function(_selector(match[1]))).parameters
        names = [name for name in parameters if name not in ('self', 'parent', 'name')]
        return (
            f'{location}{match[1]} has no parameter {match[2]}.{closest(match[2], names)}\nIt has: {", ".join(names)}.'
        )
    for pattern in (
        r"'(?P<name>\w+)' was not provided by an import statement",
        r"Couldn't resolve selector (?P<name>[\w.]+);",
        r"No configurable matching '(?P<name>[\w./]+)'",
    ):
        if match := re.match(pattern, complaint):
            wrong = match['name']
            used = {name for s in statements for name in _names_in(s) if name == wrong or name.startswith(f'{wrong}.')}
            location = _location(statements, lambda s, used=used: bool(used & _names_in(s)))
            full = next(iter(sorted(used)), wrong)
            known = _known_names(wrong)
            return f'{location}nothing is called {full}.{closest(full, known)}\nKnown: {", ".join(known)}.'
    if isinstance(error, ModuleNotFoundError):
        complaint += '. Modules are looked for in the working directory, and where PYTHONPATH says.'
    if match := re.search(r'In file "([^"]+)", line (\d+)', message):
        complaint = f'{match[1]}, line {match[2]}: {complaint}'
    return complaint


def _names_in(statement: Statement) -> set[str]:
    """The configurables that a statement binds or refers to."""
    return {reference.name for reference in held(statement.value, Reference)} | {statement.selector}


def _location(statements: Sequence[Statement], is_it: Callable[[Statement], bool]) -> str:
    return next((f'{statement.location}: ' for statement in reversed(statements) if is_it(statement)), '')


def _known_names(wrong: str) -> list[str]:
    """What the configuration can name: registered parts, and the public functions of the module meant."""
    registered = gin.config._REGISTRY._selector_map
    names = {_short(selector) for selector in registered if not selector.startswith('gin.')}
    for selector in registered:
        module, _, _ = selector.rpartition('.')
        if module in sys.modules and module.rpartition('.')[2] == wrong.partition('.')[0]:
            here = vars(sys.modules[module]).items()
            names |= {
                _short(f'{module}.{n}') for n, v in here if getattr(v, '__module__', None) == module and n[0] != '_'
            }
    return sorted(names)


def _selector(name: str) -> str:
    """gin's full name of a configurable, from any unambiguous end of it."""
    matches = gin.config._REGISTRY.matching_selectors(name)
    return matches[0] if matches else name


def _function(selector: str) -> Any:
    return gin.config._REGISTRY.get_match(selector).wrapped


def _short(selector: str) -> str:
    return '.'.join(selector.split('.')[-2:])


def _check_types(statements: Sequence[Statement]) -> None:
    """A string where a number belongs is an error now, not in the middle of a run."""
    effective = {s.name: s for s in statements}
    for statement in effective.values():
        if statement.is_macro:
            continue
        selector, parameter = statement.selector, statement.parameter
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
                f'{culprit.location}: {culprit.name}{via} must be {types.describe(hint)}, '
                f'but it is {culprit.value!r}, {_kind(culprit.value)}.{_near_literal(culprit.value, hint)}'
            )


def _near_literal(value: Any, hint: Any) -> str:
    choices = [c for c in getattr(hint, '__args__', ()) if isinstance(c, str)]
    return closest(value, choices) if isinstance(value, str) and choices else ''


def _kind(value: Any) -> str:
    names = {str: 'a text', int: 'a whole number', float: 'a fraction', bool: 'a truth value', type(None): 'nothing'}
    return names.get(type(value), f'a {type(value).__name__}')
