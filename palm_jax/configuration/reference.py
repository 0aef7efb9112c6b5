"""All macros and parameters that gin files can bind, with their types, bounds, defaults and descriptions."""

from __future__ import annotations

import dataclasses
import fnmatch
import importlib
import inspect
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from palm_jax import bounds
from palm_jax.configuration import types
from palm_jax.configuration.compose import render
from palm_jax.configuration.statements import (
    Import,
    Macro,
    Reference,
    Statement,
    held,
    open_file,
    read_statements,
    search_roots,
)

_ENTRY = re.compile(r'(?P<names>\*{0,2}\w+(?:, \w+)*): (?P<text>.*)')


@dataclasses.dataclass(frozen=True)
class Binding:
    """A macro or a parameter.

    Attributes:
      name: `LORA_RANK`, or `lora.LoRA.rank`.
      type: type in words, empty if unknown.
      allowed: bounds or choices in words, empty if there are none.
      values: (location, value as gin text) of every file that binds it; the first is its default.
      default: Python default as gin text; None for a macro or a required parameter.
      bound_to: macro that a parameter reads, or parameters that read a macro.
      description: one sentence, empty if there is none.
      readings: sentences of the parameters that read a macro, by parameter, where they are not all the same.
    """

    name: str
    type: str
    allowed: str
    values: tuple[tuple[str, str], ...]
    default: str | None
    bound_to: tuple[str, ...]
    description: str
    readings: Mapping[str, str] = dataclasses.field(default_factory=dict)

    @property
    def is_macro(self) -> bool:
        """Whether this is a macro."""
        return '.' not in self.name

    def matches(self, pattern: str) -> bool:
        """Return whether the name contains a text, or matches a glob, in any case."""
        pattern = pattern.lower()
        glob = pattern if any(character in pattern for character in '*?[') else f'*{pattern}*'
        return fnmatch.fnmatchcase(self.name.lower(), glob)


def package_files() -> list[Path]:
    """Return all gin files of the package: parts first, then whole runs."""
    root = next(root for root in search_roots()[1:] if (root / 'gin').is_dir())
    return sorted((root / 'gin').glob('*/*.gin')) + sorted((root / 'gin').glob('*.gin'))


def read(files: Iterable[Path]) -> list[Binding]:
    """Return the bindings of gin files, and all other parameters of what they name.

    Args:
      files: gin files; those that they include are not read.

    Raises:
      UserError: gin cannot read a file.
    """
    statements: list[Statement] = []
    imports: list[Import] = []
    for path in files:
        file_statements, file_imports = read_statements(open_file(path), with_includes=False)
        statements += file_statements
        imports += file_imports
    return collect(statements, imports)


def collect(statements: Sequence[Statement], imports: Sequence[Import]) -> list[Binding]:
    """Return the bindings of statements, macros first, and all other parameters of what they name."""
    modules = {line.bound_name: line.module for line in imports if not line.module.startswith('__gin__')}
    named = {_plain(s.selector) for s in statements if not s.is_macro}
    named |= {_plain(reference.name) for s in statements for reference in held(s.value, Reference)}
    parameters: dict[str, Binding] = {}
    for owner in sorted(named):
        module, _, function = owner.partition('.')
        if module in modules:
            target = getattr(importlib.import_module(modules[module]), function)
            parameters |= {p.name: p for p in _parameters(owner, target, statements)}
    macros = dict.fromkeys(statement.name for statement in statements if statement.is_macro)
    macros |= dict.fromkeys(macro.name for s in statements for macro in held(s.value, Macro))
    return [*(_macro(name, statements, parameters) for name in sorted(macros)), *parameters.values()]


def _plain(name: str) -> str:
    """Return the last two parts of a name, without scopes."""
    return '.'.join(name.rpartition('/')[2].split('.')[-2:])


def _parameters(owner: str, target: Any, statements: Sequence[Statement]) -> list[Binding]:
    hints, described = types.hints_of(target), descriptions(target)
    found, signature = [], inspect.signature(target).parameters
    # gin binds neither the fields that Linen adds to a module nor the `run` that the program passes.
    hidden = {'run', *(('parent', 'name') if 'parent' in signature else ())}
    for parameter in signature.values():
        if parameter.name in hidden or parameter.kind in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL):
            continue
        name, hint = f'{owner}.{parameter.name}', hints.get(parameter.name)
        own = [s for s in statements if not s.is_macro and f'{_plain(s.selector)}.{s.parameter}' == name]
        found.append(
            Binding(
                name,
                _type(hint),
                _allowed(hint),
                tuple((s.location, render(s.value)) for s in own),
                None if parameter.default is parameter.empty else _as_text(_default(target, parameter)),
                tuple(dict.fromkeys(macro.name for s in own for macro in held(s.value, Macro))),
                described.get(parameter.name, ''),
            )
        )
    return found


def _macro(name: str, statements: Sequence[Statement], parameters: Mapping[str, Binding]) -> Binding:
    own = [s for s in statements if s.is_macro and s.name == name]
    readers = [s for s in statements if any(macro.name == name for macro in held(s.value, Macro))]
    reading = tuple(dict.fromkeys(s.name if s.is_macro else f'{_plain(s.selector)}.{s.parameter}' for s in readers))
    # What the macro means is what the parameter means that has it as its whole value.
    exact = [f'{_plain(s.selector)}.{s.parameter}' for s in readers if s.value == Macro(name) and not s.is_macro]
    known = [parameters[reader] for reader in exact if reader in parameters]
    best = next((parameter for parameter in known if parameter.description), known[0] if known else None)
    values = tuple((s.location, render(s.value)) for s in own)
    if best is None:
        return Binding(name, '', '', values, None, reading, '')
    readings = {parameter.name: parameter.description for parameter in known if parameter.description}
    if len(set(readings.values())) < 2:
        readings = {}
    return Binding(name, best.type, best.allowed, values, None, reading, best.description, readings)


def _type(hint: Any) -> str:
    plain, _ = bounds.parts(hint)
    if get_origin(plain) is Literal:
        plain = type(get_args(plain)[0])
    return '' if hint is None else types.describe(plain)


def _allowed(hint: Any) -> str:
    plain, _ = bounds.parts(hint)
    if get_origin(plain) is Literal:
        return ', '.join(map(repr, get_args(plain)))
    return bounds.describe(hint).removesuffix(', or None')


def _default(target: Any, parameter: inspect.Parameter) -> Any:
    """Return the default of a parameter; of a dataclass's field with a factory, what the factory makes."""
    if dataclasses.is_dataclass(target):
        field = next((field for field in dataclasses.fields(target) if field.name == parameter.name), None)
        if field is not None and field.default_factory is not dataclasses.MISSING:
            return field.default_factory()
    return parameter.default


def _as_text(default: Any) -> str:
    if isinstance(default, tuple):
        return f'({", ".join(map(_as_text, default))}{"," if len(default) == 1 else ""})'
    if isinstance(default, list):
        return f'[{", ".join(map(_as_text, default))}]'
    if isinstance(default, bool | int | float | str | dict | None):
        return render(default)
    return getattr(default, '__name__', None) or f'{type(default).__name__}()'


def descriptions(target: Any) -> dict[str, str]:
    """Return the entries under `Args:` or `Attributes:` of a docstring, each cut to its first sentence.

    A class inherits the entries of its bases, and a function those of the dataclass that it returns.
    """
    found: dict[str, str] = {}
    if inspect.isclass(target):
        sources = [*reversed(inspect.getmro(target))]
    else:
        returned = types.hints_of(target).get('return')
        sources = [kind for kind in (*get_args(returned), returned) if dataclasses.is_dataclass(kind)] + [target]
    for one in sources:
        lines = inspect.cleandoc(vars(one).get('__doc__') or '' if inspect.isclass(one) else one.__doc__ or '')
        section = re.search(r'^(?:Args|Attributes):\n((?:[ ]+.*\n?|\n)+)', lines + '\n', re.M)
        entries: list[list[str]] = []
        for line in section[1].splitlines() if section else ():
            if line.startswith('   ') and entries:
                entries[-1].append(line.strip())
            elif line.strip():
                entries.append([line.strip()])
        for entry in entries:
            if match := _ENTRY.fullmatch(' '.join(entry)):
                found |= dict.fromkeys(match['names'].replace('*', '').split(', '), _sentence(match['text']))
    return found


def _sentence(text: str) -> str:
    first = re.split(r'(?<=[^.\s]\.)\s+(?=[A-Z`(])', text.strip(), maxsplit=1)[0]
    if not first.endswith('...'):
        first = f'{first.rstrip(".;")}.'
    begin = first[:1].upper() if first[:1].isascii() else first[:1]  # γ is another symbol than Γ
    return f'{begin}{first[1:]}' if text.strip() else ''


def as_text(bindings: Sequence[Binding]) -> str:
    """Return bindings as text for a terminal, one a paragraph."""
    paragraphs = []
    for binding in bindings:
        values = [f'{binding.name} = {value}  ({location})' for location, value in binding.values]
        if not values:
            values = [binding.name + (f' = {binding.default}' if binding.default is not None else '  (must be given)')]
        facts = [binding.type, binding.allowed, _relation(binding)]
        described = [f'{name}: {sentence}' for name, sentence in binding.readings.items()] or [binding.description]
        details = [text for text in (', '.join(filter(None, facts)), *described) if text]
        paragraphs.append('\n'.join([*values, *(f'    {line}' for line in details)]))
    return '\n'.join(paragraphs)


def _relation(binding: Binding) -> str:
    if not binding.bound_to:
        return ''
    return f'read by {", ".join(binding.bound_to)}' if binding.is_macro else ''


def as_markdown(bindings: Sequence[Binding]) -> str:
    """Return the reference page of bindings: a table of macros, and one of parameters for each configurable."""
    lines = [
        '# Bindings',
        '',
        'All macros and parameters that gin files and `--gin.NAME=value` can set. `palm-jax bindings [PATTERN]` lists',
        'the same in a terminal, and with `--gin_file=...` the values of a run and where they are set.',
        '',
        'This page is generated: `palm-jax bindings --markdown` writes it.',
        '',
        '## Macros',
        '',
        '| macro | type | allowed | values | description |',
        '|---|---|---|---|---|',
    ]
    for binding in (b for b in bindings if b.is_macro):
        by_value: dict[str, list[str]] = {}
        for location, value in binding.values:
            by_value.setdefault(value, []).append(location.partition(',')[0].removeprefix('gin/'))
        values = '; '.join(f'`{value}` in {", ".join(dict.fromkeys(files))}' for value, files in by_value.items())
        by_sentence: dict[str, list[str]] = {}
        for name, sentence in binding.readings.items():
            by_sentence.setdefault(sentence, []).append(f'`{name}`')
        described = ' '.join(f'{", ".join(names)}: {sentence}' for sentence, names in by_sentence.items())
        cells = (f'`{binding.name}`', binding.type, binding.allowed, values or 'none')
        lines.append(_row(*cells, described or binding.description))
    owner = ''
    for binding in (b for b in bindings if not b.is_macro):
        this, _, parameter = binding.name.rpartition('.')
        if this != owner:
            owner = this
            lines += ['', f'## {owner}', '', '| parameter | type | allowed | default | macro | description |']
            lines += ['|---|---|---|---|---|---|']
        default = 'required' if binding.default is None else f'`{binding.default}`'
        macros = ', '.join(f'`{name}`' for name in binding.bound_to)
        lines.append(_row(f'`{parameter}`', binding.type, binding.allowed, default, macros, binding.description))
    return '\n'.join(lines) + '\n'


def _row(*cells: str) -> str:
    return '| ' + ' | '.join(cell.replace('|', '\\|') for cell in cells) + ' |'
