"""gin's own errors as messages with the location in the user's text and the closest known name."""

from __future__ import annotations

import difflib
import importlib
import inspect
import re
from collections.abc import Callable, Sequence

from palm_jax.configuration import gin_adapter
from palm_jax.configuration.statements import Reference, Statement, held, read_all
from palm_jax.errors import closest

_MOST_NAMES = 60  # of a list of known names
_UNKNOWN_NAME = (
    r"'(?P<name>\w+)' was not provided by an import statement",
    r"Couldn't resolve selector (?P<name>[\w.]+);",
    r"No configurable matching '(?P<name>[\w./]+)'",
)


def explain(error: Exception, statements: Sequence[Statement]) -> str:
    """Return the message for an exception that gin raised while it read `statements`."""
    message = str(error).strip()
    complaint = message.splitlines()[0] if message else type(error).__name__
    if match := re.match(r"Configurable '(.+)' doesn't have a parameter named '(\w+)'", complaint):
        selector, parameter = match.groups()
        location = _location(statements, lambda s: s.selector == selector and s.parameter == parameter)
        parameters = inspect.signature(gin_adapter.function(selector)).parameters
        names = [name for name in parameters if name not in ('self', 'parent', 'name')]
        suggestion = closest(parameter, names)
        return f'{location}{selector} has no parameter {parameter}.{suggestion}\nIt has: {", ".join(names)}.'
    for pattern in _UNKNOWN_NAME:
        if match := re.match(pattern, complaint):
            return _unknown_name(match['name'], statements)
    if isinstance(error, ModuleNotFoundError):
        complaint += '. Modules are looked for in the working directory and on PYTHONPATH.'
    elif not isinstance(error, ValueError | TypeError | KeyError | NameError) or isinstance(error, UnicodeError):
        complaint = f'importing what this names failed: {type(error).__name__}: {complaint.rstrip(".")}.'
    if match := re.search(r'In file "([^"]+)", line (\d+)', message):
        complaint = f'{match[1]}, line {match[2]}: {complaint}'
    return complaint


def _unknown_name(name: str, statements: Sequence[Statement]) -> str:
    used = {full for s in statements for full in _names_in(s) if full == name or full.startswith(f'{name}.')}
    location = _location(statements, lambda statement: bool(used & _names_in(statement)))
    full = next(iter(sorted(used)), name)
    known = gin_adapter.known_names(name.partition('.')[0])
    module, _, function = full.partition('.')
    modules: dict[str, str] = {}
    for file, _, imports in read_all():
        for line in imports:
            if line.bound_name == module and not file.startswith('gin/runs/'):  # those are for programs on runs
                modules.setdefault(line.module, file)
    if files := [file for path, file in modules.items() if hasattr(importlib.import_module(path), function)]:
        return f'{location}no file of this run imports {full}. Add e.g. --gin_file={files[0]}'
    shown = sorted(difflib.get_close_matches(full, known, _MOST_NAMES, cutoff=0))
    more = f', and {len(known) - len(shown)} more; palm-jax bindings lists all' if len(shown) < len(known) else ''
    return f'{location}nothing is called {full}.{closest(full, known)}\nKnown: {", ".join(shown)}{more}.'


def _names_in(statement: Statement) -> set[str]:
    """Return the configurables that a statement binds or refers to."""
    return {reference.name for reference in held(statement.value, Reference)} | {statement.selector}


def _location(statements: Sequence[Statement], is_it: Callable[[Statement], bool]) -> str:
    return next((f'{statement.location}: ' for statement in reversed(statements) if is_it(statement)), '')
