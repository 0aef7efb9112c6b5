"""gin text as statements with their locations, before gin itself parses it."""

from __future__ import annotations

import codecs
import contextlib
import dataclasses
import functools
import io
import re
import shlex
import tokenize
from collections.abc import Iterator, Sequence
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from gin import config_parser

import palm_jax
from palm_jax.errors import UserError, closest

_FLAG = 'command line, --gin.'  # what precedes a binding that is not in a file, in its location
_ARGUMENT = 'argument '
_GIVEN_AS = ContextVar('given_as', default=_FLAG)
_ENDS = (tokenize.ENDMARKER, tokenize.NEWLINE, tokenize.NL, tokenize.COMMENT)
_BINDABLE = re.compile(r'(?:[A-Za-z_]\w*/)*[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*')
_LONGEST_SHOWN = 200  # characters of a value or a line in a message


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
      location: `gin/pretrain_tiny.gin, line 12`, or the flag or the argument of a Python function.
    """

    name: str
    value: Any
    location: str

    @property
    def is_macro(self) -> bool:
        """Whether it defines a macro."""
        return '.' not in self.name

    @property
    def is_given(self) -> bool:
        """Whether a flag, or an argument of a Python function, gave it."""
        return self.location.startswith((_FLAG, _ARGUMENT))

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
    if '\0' not in name:
        for candidate in candidates:
            if candidate.is_file():
                return candidate
    kind = 'is a folder, not a gin file' if path.is_dir() and name else 'is not the name of a gin file'
    raise UserError(
        f'{location}: {name!r} {kind}.{closest(name, gin_files())}\nEntry files: {", ".join(entry_files())}.'
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
      UserError: the file is not text in UTF-8.
    """
    content, display = path.read_bytes(), _display(path)
    if content[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
        raise UserError(f'{display}: a gin file is text in UTF-8, and this is UTF-16. Save it as UTF-8.')
    if b'\0' in content:
        line = content.count(b'\n', 0, content.index(b'\0')) + 1
        raise UserError(f'{display}, line {line}: contains a NUL byte, so it is not a gin file.')
    try:
        text = content.decode('utf-8-sig')
    except UnicodeDecodeError as error:
        line = content.count(b'\n', 0, error.start) + 1
        raise UserError(
            f'{display}, line {line}: byte {content[error.start]:#04x} is not UTF-8. Save the file as UTF-8.'
        ) from None
    return GinText(text.replace('\r\n', '\n').replace('\r', '\n'), display)


def read_statements(
    source: GinText, with_includes: bool = True, including: tuple[str, ...] = ()
) -> tuple[list[Statement], list[Import]]:
    """Return the bindings of a gin text in order, and its imports.

    Args:
      source: text to read.
      with_includes: whether the files that it includes are read in their place.
      including: names of the files that include this one, the outermost first.

    Raises:
      UserError: gin cannot read a line, or an included file does not exist or includes this one.
    """
    chain = (*including, source.display)
    statements: list[Statement] = []
    imports: list[Import] = []
    for statement in _parse(source, is_shown=not (source.is_of_run and including)):
        location = f'{source.display}, line {statement.location.line_num}'
        if isinstance(statement, config_parser.IncludeStatement):
            if with_includes:
                included = open_file(find_config(statement.filename, location))
                included = dataclasses.replace(included, is_of_run=source.is_of_run)
                if included.display in chain:
                    raise UserError(
                        f'{location}: {statement.filename} includes itself: {" → ".join((*chain, included.display))}. '
                        'Remove one of these includes.'
                    )
                nested, nested_imports = read_statements(included, including=chain)
                statements += nested
                imports += nested_imports
        elif isinstance(statement, config_parser.ImportStatement):
            imports.append(Import(statement.module, statement.bound_name(), statement.format(), location))
        elif isinstance(statement, config_parser.BindingStatement):
            statements.append(Statement(_name(statement), statement.value, location))
    return statements, imports


def read_all() -> Iterator[tuple[str, list[Statement], list[Import]]]:
    """Yield name, bindings and imports of all files in `gin` folders, parts before whole runs.

    Files that cannot be read are left out, and what a file includes is not read.
    """
    for name in sorted(gin_files(), key=lambda name: -name.count('/')):
        with contextlib.suppress(UserError):
            yield name, *read_statements(open_file(find_config(name, '--gin_file')), with_includes=False)


def read_flag(name: str, value: str) -> tuple[Statement, str]:
    """Return `--gin.NAME=value` as a statement and as gin text; a value that gin cannot read is a string."""
    location = flag_location(name, value)
    if not _BINDABLE.fullmatch(name):
        raise UserError(
            f'{location}: {name!r} is not a name. Macros are set by --gin.TRAIN_STEPS=100, parameters by '
            '--gin.loop.train.total_steps=100.'
        )
    try:
        parser = config_parser.ConfigParser(value, _Delegate())
        parsed = parser.parse_value()
        if parser._current_token.type not in _ENDS:
            raise SyntaxError  # of `1 2` and `5*3` the parser reads only the first number
        text = value
    except (SyntaxError, ValueError, tokenize.TokenError, RecursionError):
        is_template = re.match(r'\{[^{}\'":]+\}', value)  # of columns, e.g. {question}
        if value.startswith(('@', '%', '[', '(', '{')) and not is_template:
            raise UserError(f'{location}: not a gin value. {_advice_for_value(name, value)}') from None
        parsed, text = value, repr(value)
    return Statement(name, parsed, location), f'{name} = {text}'


@contextlib.contextmanager
def given_in_python() -> Iterator[None]:
    """Locate bindings that are not in a file by the argument of the Python function, not by a flag."""
    token = _GIVEN_AS.set(_ARGUMENT)
    try:
        yield
    finally:
        _GIVEN_AS.reset(token)


def flag_location(name: str, value: str) -> str:
    """Return the location of a binding that is not in a file."""
    shown = value if len(value) <= _LONGEST_SHOWN else f'{value[:_LONGEST_SHOWN]}...'
    return f'{_GIVEN_AS.get()}{name}={shown}'


def _advice_for_value(name: str, value: str) -> str:
    shown = value if len(value) <= _LONGEST_SHOWN else '...'
    if any(value.count(a) != value.count(b) for a, b in ('()', '[]', '{}')):
        return f'Its brackets do not match. A text needs quotes, e.g. {_as_text(name, shown)}'
    return f"Quote it for the shell, e.g. '--gin.{name}={shown}'; texts in it need quotes of their own." + (
        f' If all of it is a text: {_as_text(name, shown)}' if shown == value else ''
    )


def _as_text(name: str, value: str) -> str:
    """Return the flag that binds a text as the shell takes it: `--gin.NAME="'text'"`."""
    flag = f'--gin.{name}={value!r}'
    return shlex.quote(flag) if re.search(r'["$`\\!]', flag) else f'--gin.{name}="{value!r}"'


@functools.lru_cache(maxsize=512)  # the same parts are read for every run, and all of them for a message
def _parse(source: GinText, is_shown: bool) -> tuple[Any, ...]:
    """Return the statements of a text; what a run's `config.gin` includes may be any file, of which none is shown."""
    text, display = source.text, source.display
    parser = config_parser.ConfigParser(io.StringIO(text), _Delegate())
    try:
        return tuple(parser)
    except (SyntaxError, ValueError, tokenize.TokenError, RecursionError) as error:
        line = getattr(error, 'lineno', None) or parser._current_token.start[0]
        if not is_shown:
            raise UserError(f'{display}, line {line}: gin cannot read this line.') from None
        content = text.split('\n')[line - 1].strip() if line <= text.count('\n') + 1 else ''
        if len(content) > _LONGEST_SHOWN:
            raise UserError(
                f'{display}, line {line}: gin cannot read this line: it is too long or too deeply nested:\n'
                f'    {content[:_LONGEST_SHOWN]}...'
            ) from None
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
