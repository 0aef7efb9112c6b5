"""Arguments of the programs: help that shows every default, and mistakes that end in one message with advice."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Annotated, Any, NoReturn

from palm_jax import bounds
from palm_jax.errors import UserError, closest

_BINDING = re.compile(
    r'-{0,2}(?:gin\.(?P<name>[^=\s]+)|(?P<macro>[A-Z][A-Z0-9_]+|[\w/]+\.\w+\.\w+))(?:=(?P<value>.*))?', re.S
)
_REQUIRED = re.compile(r'the following arguments are required: (.+)')
_CHOICE = re.compile(r"invalid choice: '(.*)' \(choose from (.*)\)")


class _Formatter(argparse.RawDescriptionHelpFormatter):
    """Keeps the lines of a description, and adds the default of an option to its help."""

    def _get_help_string(self, action: argparse.Action) -> str:
        text = action.help or ''
        has_none = action.default in (None, [], argparse.SUPPRESS) or action.default is False
        if not action.option_strings or 'default' in text or has_none:
            return text
        default = ' '.join(action.default) if isinstance(action.default, list) else '%(default)s'
        return f'{text}; default: {default}'


class Parser(argparse.ArgumentParser):
    """A parser whose errors are `UserError`s with the closest flag and an example.

    Abbreviations of flags are refused.

    Args:
      example: command that works, for messages; empty for none.
      takes_bindings: whether the program takes `--gin.NAME=value`.
      arguments: arguments of `argparse.ArgumentParser`.
    """

    def __init__(self, *, example: str = '', takes_bindings: bool = False, **arguments: Any):
        self._needed: dict[str, str] = {}
        super().__init__(formatter_class=_Formatter, allow_abbrev=False, **arguments)
        self._example, self._takes_bindings = example, takes_bindings

    def add_argument(self, *names: str, needs: str = '', **options: Any) -> argparse.Action:
        """Add an argument.

        Args:
          names: see `argparse.ArgumentParser.add_argument`.
          needs: `--flag` or `--flag=value` without which this argument has no effect, and is refused.
          options: see `argparse.ArgumentParser.add_argument`.
        """
        if needs:
            self._needed[names[0]] = needs
        return super().add_argument(*names, **options)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse, after a look for flags that do not exist: argparse would first complain about what is missing."""
        if self._subparsers is None:
            for argument in args or ():
                if argument == '--':
                    break
                name = argument.partition('=')[0]
                if re.match(r'--?[A-Za-z]', name) and name not in self._option_string_actions:
                    self._refuse(argument)
        options, unknown = super().parse_known_args(args, namespace)
        if unknown:
            self._refuse(unknown[0])
        for action in self._get_positional_actions():
            for value in _strings(getattr(options, action.dest, None)):
                if self._takes_bindings and _BINDING.fullmatch(value) and '=' in value:
                    self._refuse(value)
        self._refuse_without_effect(options, {argument.partition('=')[0] for argument in args or ()})
        return options, []

    def _refuse_without_effect(self, options: Any, given: Collection[str]) -> None:
        """Refuse a flag that another one needs to have an effect."""
        for flag, needed in self._needed.items():
            name, _, value = needed.partition('=')
            if flag in given and not (str(getattr(options, name.strip('-'))) == value if value else name in given):
                what = '' if value else f' ({self._option_string_actions[name].help})'
                raise UserError(f'{flag} requires {needed}{what}: without it {flag} has no effect.')

    def error(self, message: str) -> NoReturn:
        """Raise argparse's complaint as a `UserError`."""
        if match := _REQUIRED.fullmatch(message):
            complaint = '\n'.join(map(self._missing, match[1].split(', ')))
        else:
            complaint = message.removeprefix('argument ')
            if match := _CHOICE.search(message):
                complaint += '.' + closest(match[1], re.findall(r"[^\s',]+", match[2]))
        raise UserError(f'{complaint}\n{self._advice()}')

    def _missing(self, name: str) -> str:
        for action in self._actions:
            if name in ('/'.join(action.option_strings), action.metavar, action.dest) and action.help:
                return f'{name} is missing: {action.help}.'
        return f'{name} is missing.'

    def _refuse(self, argument: str) -> NoReturn:
        """Raise the error about an argument that the program does not have."""
        name, equals, value = argument.partition('=')
        if self._takes_bindings and (match := _BINDING.fullmatch(argument)):
            binding = match['name'] or match['macro']
            raise UserError(
                f'{argument}: a binding begins with --gin. Did you mean --gin.{binding}={match["value"] or "..."}?\n'
                f'{self._advice()}'
            )
        flags = {_plain(flag): flag for flag in self._option_string_actions if flag.startswith('--')}
        if self._takes_bindings and name.startswith('-'):
            flags = {_plain(macro): f'--gin.{macro}' for macro in _macros()} | flags
        suggestion = closest(_plain(name), flags)
        for plain, flag in flags.items():
            if suggestion == f' Did you mean {plain}?':
                suggestion = f' Did you mean {flag}{equals}{value}?'
        if not name.startswith('-'):
            raise UserError(f'{argument!r} is one argument too many.\n{self._advice()}')
        raise UserError(f'{self.prog} has no flag {name}.{suggestion}\n{self._advice()}')

    def _advice(self) -> str:
        example = f'Example: {self._example}\n' if self._example else ''
        return f'{example}All arguments: {self.prog} --help'


def _plain(flag: str) -> str:
    """Return a flag as it is compared: without dashes, in lower case."""
    return flag.strip('-').removeprefix('gin.').replace('-', '_').lower()


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str | Path):
        yield str(value)
    elif isinstance(value, list):
        for item in value:
            yield from _strings(item)


def _macros() -> list[str]:
    """Return the macros of all gin files."""
    from palm_jax.configuration.reference import package_files
    from palm_jax.configuration.statements import open_file, read_statements

    files = (read_statements(open_file(path), with_includes=False)[0] for path in package_files())
    return sorted({statement.name for statements in files for statement in statements if statement.is_macro})


def number(hint: Any) -> Callable[[str], Any]:
    """Return an argparse type that refuses what is not a number inside the bounds of an annotation.

    Args:
      hint: `int` or `float` with bounds, e.g. `Annotated[int, AtLeast(1)]`.
    """
    kind, _ = bounds.parts(hint)
    limits = bounds.describe(hint)
    words = f'{"a whole" if kind is int else "a finite"} number{" of" if limits.startswith("at ") else ""} {limits}'

    def parse(text: str) -> Any:
        try:
            value = kind(text)
        except ValueError:
            value = None
        if value is None or not bounds.hold(value, hint):
            raise argparse.ArgumentTypeError(f'{text[:40]} must be {words}')
        return value

    return parse


positive = number(Annotated[int, bounds.AtLeast(1), bounds.AtMost(2**31 - 1)])  # what an array's size can be


def file_name(*suffixes: str) -> Callable[[str], Path]:
    """Return an argparse type for the name of a file to write, which must end in one of some suffixes."""

    def parse(text: str) -> Path:
        path = Path(text)
        if path.suffix not in suffixes:
            other = path.with_suffix(suffixes[0]) if path.name else f'name{suffixes[0]}'
            raise argparse.ArgumentTypeError(f'{text!r} must end in {" or ".join(suffixes)}, e.g. {other}')
        return path

    return parse
