"""gin text as statements with their locations, before gin itself parses it."""

from __future__ import annotations

import dataclasses
import io
import re
import tokenize
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from gin import config_parser

import palm_jax
from palm_jax.errors import UserError, closest

COMMAND_LINE = 'command line'


@dataclasses.dataclass(frozen=True)
class Reference:
    """`@name` or `@name()` as a value."""

    name: str
    evaluated: bool


@dataclasses.dataclass(frozen=True)
class Macro:
    """`%NAME` as a value."""

    name: str


@dataclasses.dataclass(frozen=True)
class Statement:
    """One binding (`name = value`) of a macro or of a parameter, and its location.

    Attributes:
      name: `TRAIN_STEPS`, or `scope/module.Class.parameter`.
      value: Python value that may contain references and macros.
      location: `gin/pretrain_tiny.gin, line 12`, or the flag.
    """

    name: str
    value: Any
    location: str

    @property
    def is_macro(self) -> bool:
        """Whether it defines a macro."""
        return '.' not in self.name

    @property
    def on_command_line(self) -> bool:
        """Whether a flag gave it."""
        return self.location.startswith(COMMAND_LINE)

    @property
    def selector(self) -> str:
        """The configurable whose parameter is bound: `module.Class`, without scopes."""
        return self.name.rpartition('/')[2].rpartition('.')[0]

    @property
    def parameter(self) -> str:
        """The parameter that is bound: the last part of the name."""
        return self.name.rpartition('.')[2]


@dataclasses.dataclass(frozen=True)
class Import:
    """An import line.

    Attributes:
      module: full name of the module.
      bound_name: name under which the file uses it.
      line: the statement as gin text.
      location: file and line.
    """

    module: str
    bound_name: str
    line: str
    location: str


@dataclasses.dataclass(frozen=True)
class GinText:
    """gin text that was given as one file.

    Attributes:
      text: what gin is to parse.
      display: name of the file for messages.
      is_of_run: whether it is the `config.gin` of a MODEL_DIR, which a program wrote; see `trust`.
    """

    text: str
    display: str
    is_of_run: bool = False

    def as_file(self) -> io.StringIO:
        """Return the text as an open file, by whose name gin reports errors."""
        file = io.StringIO(self.text)
        file.name = self.display
        return file


class _Delegate(config_parser.ParserDelegate):
    def configurable_reference(self, name: str, evaluate: bool) -> Reference:
        return Reference(name, evaluate)

    def macro(self, name: str) -> Macro:
        return Macro(name)


def search_roots() -> tuple[Path, ...]:
    """Return where gin files are looked for: the working directory, the package, the folder around it (a checkout)."""
    package = Path(palm_jax.__file__).resolve().parent
    return Path.cwd(), package, package.parent


def find_config(name: str, location: str) -> Path:
    """Return the file that a `--gin_file` or an `include` names.

    Args:
      name: path, relative to one of `search_roots`.
      location: where the name is given, for the message.

    Raises:
      UserError: there is no such file.
    """
    path = Path(name).expanduser()
    candidates = [path] if path.is_absolute() else [root / path for root in search_roots()]
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    raise UserError(
        f'{location}: no gin file {name!r}.{closest(name, gin_files())}\nEntry files: {", ".join(entry_files())}.'
    )


def entry_files() -> list[str]:
    """Return the gin files that are whole runs: those directly in a `gin` folder."""
    return [name for name in gin_files() if name.count('/') == 1]


def gin_files() -> list[str]:
    """Return the names of all gin files in `gin` folders, whole runs and parts."""
    return sorted({p.relative_to(root).as_posix() for root in search_roots() for p in (root / 'gin').rglob('*.gin')})


def open_file(path: Path) -> GinText:
    """Read a gin file.

    Raises:
      UserError: the file is not text.
    """
    try:
        return GinText(path.read_text(), _display(path))
    except UnicodeDecodeError as error:
        raise UserError(f'{_display(path)} is not a text file: {error}.') from None


def read_statements(source: GinText, with_includes: bool = True) -> tuple[list[Statement], list[Import]]:
    """Return the bindings of a gin text in order, and its imports.

    Args:
      source: text to read.
      with_includes: whether the files that it includes are read in their place.

    Raises:
      UserError: gin cannot read a line, or an included file does not exist.
    """
    statements: list[Statement] = []
    imports: list[Import] = []
    for statement in _parse(source.text, source.display):
        location = f'{source.display}, line {statement.location.line_num}'
        if isinstance(statement, config_parser.IncludeStatement):
            if with_includes:
                nested, nested_imports = read_statements(open_file(find_config(statement.filename, location)))
                statements += nested
                imports += nested_imports
        elif isinstance(statement, config_parser.ImportStatement):
            imports.append(Import(statement.module, statement.bound_name(), statement.format(), location))
        elif isinstance(statement, config_parser.BindingStatement):
            statements.append(Statement(_name(statement), statement.value, location))
    return statements, imports


def read_flag(name: str, value: str) -> tuple[Statement, str]:
    """Return `--gin.NAME=value` as a statement and as gin text; a value that gin cannot read is a string."""
    location = f'{COMMAND_LINE}, --gin.{name}={value}'
    try:
        parsed = config_parser.ConfigParser(value, _Delegate()).parse_value()
        if isinstance(parsed, str | int | float | bool | None) and re.fullmatch(r'\w+\s+\S.*', value):
            raise SyntaxError  # of `1 2` the parser reads only the first word
        text = value
    except (SyntaxError, ValueError, tokenize.TokenError):
        is_template = re.match(r'\{\w+\}', value)  # of columns, e.g. {question}
        if value.lstrip()[:1] in '@%[({' and not is_template:
            raise UserError(
                f"{location}: not a gin value. Quote it for the shell, e.g. '--gin.{name}={value}'"
            ) from None
        parsed, text = value, repr(value)
    return Statement(name, parsed, location), f'{name} = {text}'


def _parse(text: str, display: str) -> Iterator[Any]:
    parser = config_parser.ConfigParser(io.StringIO(text), _Delegate())
    try:
        yield from parser
    except (SyntaxError, ValueError, tokenize.TokenError) as error:
        line = getattr(error, 'lineno', None) or parser._current_token.start[0]
        content = text.splitlines()[line - 1].strip() if line <= text.count('\n') + 1 else ''
        hint = ''
        match = re.fullmatch(r'([\w./]+)\s*=\s*([^\'"@%\[({].*)', content)
        if match and not re.fullmatch(r'[-+\d.eE_]+', match[2]):
            hint = f'\nText needs quotes: {match[1]} = {match[2].split("#")[0].strip()!r}'
        elif match is None and re.fullmatch(r'include\s+[^\'"].*', content):
            hint = f'\nText needs quotes: include {content.split(maxsplit=1)[1]!r}'
        raise UserError(f'{display}, line {line}: gin cannot read this line:\n    {content}{hint}') from None


def _name(statement: Any) -> str:
    scope = f'{statement.scope}/' if statement.scope else ''
    return scope + statement.selector + (f'.{statement.arg_name}' if statement.arg_name else '')


def _display(path: Path) -> str:
    for root in search_roots():
        if path.is_relative_to(root):
            return path.relative_to(root).as_posix()
    return str(path)


def held(value: Any, kind: type | tuple[type, ...]) -> Iterator[Any]:
    """Yield all references or macros inside a value."""
    if isinstance(value, kind):
        yield value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from held(key, kind)
            yield from held(item, kind)
    elif isinstance(value, Sequence) and not isinstance(value, str):
        for item in value:
            yield from held(item, kind)
