"""Strict loading of gin: what gin accepts silently is an error here, with its location and the closest known name."""

from __future__ import annotations

import dataclasses
import io
import os
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, get_origin

from palm_jax import bounds
from palm_jax.configuration import added_files, gin_adapter, gin_errors, renames, types
from palm_jax.configuration.compose import render, render_file, select_used
from palm_jax.configuration.configuration import Configuration
from palm_jax.configuration.statements import (
    GinText,
    Import,
    Macro,
    Reference,
    Statement,
    entry_files,
    find_config,
    flag_location,
    held,
    open_file,
    read_all,
    read_flag,
    read_statements,
)
from palm_jax.configuration.trust import Trust
from palm_jax.errors import UserError, closest
from palm_jax.run_directory import RunDirectory, repair_files

_LARGEST_INTEGER = 2**63 - 1


def load(
    root: str,
    gin_files: Sequence[str],
    flags: Sequence[tuple[str, str]],
    overlay: str | None = None,
    trust: Trust | None = None,
    of_other_files: Callable[[str, str], str] | None = None,
) -> Configuration:
    """Read gin files and flags, which override them, check both and let gin parse them.

    Args:
      root: function that the program calls, e.g. `loop.train`.
      gin_files: paths, relative to the working directory or else to the package.
      flags: (NAME, value) of every `--gin.NAME=value`.
      overlay: gin text that overrides the first file, as far as the files use what it binds; see `compose`.
      trust: what a `config.gin` of a run may name, with the files that it includes; the modules that other files
        import are trusted, as the user named those files. None trusts the `config.gin`, too.
      of_other_files: what to do about a macro, by its name and value, that only other files have; None advises to add
        one of these.

    Raises:
      UserError: with the location and the closest known name, or what is not trusted.
    """
    gin_adapter.clear()
    sources = [open_source(name) for name in gin_files]
    statements: list[Statement] = []
    imports: list[Import] = []
    if overlay is not None:
        sources.insert(1, _as_far_as_used(GinText(overlay, 'overlay'), sources))
    parts = read_trusted(sources, trust)
    for file_statements, file_imports in parts:
        statements += file_statements
        imports += file_imports
    if not any(statement.selector == root for statement in statements):
        raise UserError(f'{", ".join(gin_files)} binds nothing of {root}: {_missing(root)}')
    given = [read_flag(name, value) for name, value in flags]
    renames.refuse_old_names([*statements, *(statement for statement, _ in given)], imports)
    _refuse_unknown_flags(flags, statements, of_other_files)
    statements += [statement for statement, _ in given]
    of_files = [of_file for of_file, _ in parts[-len(gin_files) :]]
    _check_macros(statements, of_other_files)
    _check_plain_values(statements)
    _parse(sources, imports, [line for _, line in given], statements)
    added_files.refuse_lost_items(of_files, statements)
    added_files.refuse_lost_wrappers(of_files, statements)
    _check_values(statements)
    return Configuration(tuple(statements))


def read_trusted(sources: Sequence[GinText], trust: Trust | None) -> list[tuple[list[Statement], list[Import]]]:
    """Return the bindings and imports of gin texts, whose modules may be imported then.

    Args:
      sources: texts in order, each with the files that it includes.
      trust: see `load`.

    Raises:
      UserError: gin cannot read a line, or the configuration of a run names what is not trusted.
    """
    read = [read_statements(source) for source in sources]
    if trust is not None:
        named = [imports for source, (_, imports) in zip(sources, read, strict=True) if not source.is_of_run]
        trust = trust.extended_by(line for imports in named for line in imports)
    if (trust is None or trust.modules) and os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())  # gin imports the modules of the caller
    if trust is not None:
        for source, (statements, imports) in zip(sources, read, strict=True):
            if source.is_of_run:
                trust.check(statements, imports)
    return read


def _missing(root: str) -> str:
    """Return what to do about files that do not bind the function of a program."""
    if root == 'loop.train':
        return f'a part, not a whole run. Entry files: {", ".join(entry_files())}.'
    parts = [name for name, statements, _ in read_all() if root in {s.selector for s in statements}]
    return f'it needs the line {" or ".join(f"include {part!r}" for part in parts)}.'


def open_source(name: str) -> GinText:
    """Read a gin file; in the configuration of a run, translate names of earlier versions.

    Args:
      name: path, see `find_config`.

    Raises:
      UserError: there is no such file, or it is not text in UTF-8.
    """
    path = find_config(name, '--gin_file')
    if renames.is_run_config(path):
        repair_files(RunDirectory(path.parent))
    source = dataclasses.replace(open_file(path), is_of_run=path == RunDirectory(path.parent).config)
    return dataclasses.replace(source, text=renames.translate(source.text)) if renames.is_run_config(path) else source


def _as_far_as_used(overlay: GinText, sources: Sequence[GinText]) -> GinText:
    """Return an overlay without the bindings that have no effect on the given texts."""
    bindings, imports = read_statements(overlay)
    statements = [statement for source in sources for statement in read_statements(source)[0]]
    return dataclasses.replace(overlay, text=render_file(select_used(bindings, statements), imports))


def _refuse_unknown_flags(
    flags: Sequence[tuple[str, str]],
    statements: Sequence[Statement],
    of_other_files: Callable[[str, str], str] | None,
) -> None:
    """Refuse a flag whose macro is not in the files: gin would silently define a new one."""
    macros = {s.name for s in statements if s.is_macro} | _used_macros(statements)
    for name, value in flags:
        if '.' not in name and name not in macros:
            location = flag_location(name, value)
            if parts := [file for file, of_file, _ in read_all() if name in {s.name for s in of_file}]:
                if of_other_files is not None:
                    raise UserError(f'{location}: {of_other_files(name, value)}')
                raise UserError(
                    f'{location}: no file of this run has the macro {name}; it is in {", ".join(parts)}. '
                    f'Add e.g. --gin_file={parts[0]}'
                )
            meant = renames.ELSEWHERE.get(name.lower())
            suggestion = f' Did you mean {meant}?' if meant in macros else closest(name, macros)
            raise UserError(
                f'{location}: no macro is called {name}.{suggestion}\nMacros here: {", ".join(sorted(macros))}.'
            )


def _used_macros(statements: Sequence[Statement]) -> set[str]:
    return {macro.name for s in statements for macro in held(s.value, Macro)}


def _check_macros(statements: Sequence[Statement], of_other_files: Callable[[str, str], str] | None) -> None:
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
    _refuse_circles(effective)
    # Uses that a later binding has overridden count: replacing a part must not make its macros unused.
    used = _used_macros(statements)
    for name in sorted(defined - used):
        if readers := [file for file, of_file, _ in read_all() if name in _used_macros(of_file)]:
            if of_other_files is not None:
                statement = effective[name]
                raise UserError(f'{statement.location}: {of_other_files(name, render(statement.value))}')
            raise UserError(
                f'{effective[name].location}: nothing in this run reads {name}; it is read by {", ".join(readers)}. '
                'Leave the file that sets it out, or add one of these.'
            )
        raise UserError(
            f'{effective[name].location}: nothing uses the macro {name}.{closest(name, used - {name})}\n'
            f'Used here: {", ".join(sorted(used))}.'
        )


def _refuse_circles(effective: Mapping[str, Statement]) -> None:
    """Refuse macros that are defined by themselves, directly or by others."""
    finished: set[str] = set()

    def follow(name: str, chain: tuple[str, ...]) -> None:
        if name in chain:
            circle = ' → '.join(f'%{macro}' for macro in (*chain[chain.index(name) :], name))
            raise UserError(f'{effective[name].location}: {name} is defined by itself: {circle}. Give it a value.')
        if name not in finished:
            for macro in held(effective[name].value, Macro):
                if macro.name in effective:
                    follow(macro.name, (*chain, name))
            finished.add(name)

    for name, statement in effective.items():
        if statement.is_macro:
            follow(name, ())


def _parse(
    sources: Sequence[GinText], imports: Sequence[Import], flag_lines: Sequence[str], statements: Sequence[Statement]
) -> None:
    """Let gin parse the files and the flags; a flag may name what the imports of the files reach."""
    preamble = sorted({imported.line for imported in imports}, key=lambda line: '__gin__' not in line)
    try:
        gin_adapter.parse([source.as_file() for source in sources], [*preamble, *flag_lines], _open_include)
    except UserError:
        raise
    except Exception as error:  # gin raises exceptions of many types; all of them are about the text
        raise UserError(gin_errors.explain(error, statements)) from None


def _open_include(name: str) -> io.StringIO:
    return open_file(find_config(name, 'include')).as_file()


def _check_plain_values(statements: Sequence[Statement]) -> None:
    """Refuse texts that no name of a file can hold, and whole numbers that no array can."""
    for statement in {s.name: s for s in statements}.values():
        where = f'{statement.location}: {statement.name}'
        for text in held(statement.value, str):
            try:
                text.encode('utf-8', 'surrogateescape')  # which bytes in the name of a file that are not UTF-8 become
            except UnicodeEncodeError as error:
                raise UserError(f'{where} has half of a surrogate pair, {text[error.start]!a}: remove it.') from None
            if '\0' in text:
                raise UserError(f'{where} has a NUL, character {text.index(chr(0)) + 1}: remove it.')
        for number in held(statement.value, int):
            if not -_LARGEST_INTEGER <= number <= _LARGEST_INTEGER:
                raise UserError(f'{where} has a whole number above 2^63 - 1, which is {_LARGEST_INTEGER:,}.')


def _check_values(statements: Sequence[Statement]) -> None:
    """Refuse a value of the wrong type or outside the bounds of its parameter, before anything is built."""
    effective = {s.name: s for s in statements}
    bound = {gin_adapter.selector(s.selector) for s in effective.values() if not s.is_macro}
    for statement in effective.values():
        if statement.is_macro:
            continue
        hint = types.hints_of(gin_adapter.function(statement.selector)).get(statement.parameter)
        if hint is None:
            continue
        culprit = statement
        while isinstance(culprit.value, Macro) and culprit.value.name in effective:
            culprit = effective[culprit.value.name]
        via = '' if culprit is statement else f' ({statement.selector}.{statement.parameter})'
        value = culprit.value
        if misuse := _misused_reference(culprit, hint, bound):
            raise UserError(f'{culprit.location}: {culprit.name}{via} {misuse}')
        if isinstance(value, Macro | Reference) or any(held(value, (Macro, Reference))):
            continue
        if value == '' and culprit.location == flag_location(culprit.name, '') and not bounds.may_be_empty(hint):
            advice = f'Write --gin.{culprit.name}=..., or for an empty text "\'\'".'
            raise UserError(f'{culprit.location}: the value is missing. {advice}')
        if not types.fits(value, hint):
            raise UserError(
                f'{culprit.location}: {culprit.name}{via} must be {types.describe(hint)}, '
                f'but it is {_shown(value)}, {_kind(value)}.{_closest_choice(value, hint)}'
                f'{_as_list(culprit, hint)}'
            )
        if message := bounds.violation(culprit.name, value, hint):
            raise UserError(f'{culprit.location}: {message}{via}.')


def _misused_reference(statement: Statement, hint: Any, bound: Collection[str]) -> str:
    """Return what is wrong with a function: it is called where it is meant itself, or it is not in a list.

    Args:
      statement: binding that may hold functions.
      hint: annotation of the parameter.
      bound: full names of the configurables that have parameters bound, which are meant to be called.
    """
    plain, _ = bounds.parts(hint)
    value = statement.value
    if isinstance(value, Reference) and not value.evaluated and get_origin(plain) is Sequence:
        return f'must be {types.describe(hint)}: write {statement.name} = [@{value.name}]'
    for reference in held(value, Reference):
        name = reference.name.rpartition('/')[-1]
        if not reference.evaluated or gin_adapter.selector(name) in bound:
            continue
        if types.is_meant_itself(gin_adapter.function(name), hint):
            return f'takes functions, and @{reference.name}() is the result of one: write @{reference.name} without ().'
    return ''


def _closest_choice(value: Any, hint: Any) -> str:
    choices = [choice for choice in getattr(hint, '__args__', ()) if isinstance(choice, str)]
    return closest(value, choices) if isinstance(value, str) and choices else ''


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 100 else f'{text[:100]}...'


def _as_list(statement: Statement, hint: Any) -> str:
    """Return the advice to write a list for a value that would do as its only item."""
    if isinstance(statement.value, str) and types.fits([statement.value], hint):
        return f' Write {statement.name} = {[statement.value]!r}.'
    return ''


def _kind(value: Any) -> str:
    names = {str: 'a text', int: 'a whole number', float: 'a fraction', bool: 'a truth value', type(None): 'nothing'}
    return names.get(type(value), f'a {type(value).__name__}')
