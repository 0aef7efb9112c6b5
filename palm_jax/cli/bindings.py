"""palm-jax bindings [--gin_file=...] [PATTERN]

Lists macros and parameters that gin files and --gin.NAME=value can set: value and where it is set,
type, allowed values, and one sentence. PATTERN is a part of a name, or a glob: `palm-jax bindings lora`.

Without --gin_file it lists all that any part under gin/ defines; with it, what the named files and
those they include bind, with the value that holds.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from palm_jax.cli import command_line
from palm_jax.cli.parser import Parser
from palm_jax.configuration import reference
from palm_jax.configuration.flags import split_flags
from palm_jax.configuration.load import open_source, read_trusted
from palm_jax.configuration.statements import Import, Statement, read_flag
from palm_jax.configuration.trust import Trust
from palm_jax.errors import UserError, closest

PAGE = Path('docs/reference/bindings.md')


def main(arguments: Sequence[str]) -> int:
    """List bindings, or write the reference page."""
    parser = Parser(
        prog='palm-jax bindings', description=__doc__, example='palm-jax bindings LORA_RANK', takes_bindings=True
    )
    parser.add_argument('pattern', nargs='?', help='part of a name, or a glob; default: all')
    parser.add_argument(
        '--gin_file',
        action='append',
        default=[],
        help='gin file; may be repeated, later files override earlier ones; default: all under gin/',
    )
    parser.add_argument(
        '--markdown', nargs='?', type=Path, const=PAGE, metavar='PATH', help=f'write a page instead; default: {PAGE}'
    )
    command_line.add_trust(parser)
    rest, flags = split_flags(arguments)
    options = parser.parse_args(rest)
    trust = Trust(options.trust_modules)
    found = _bindings(options.gin_file, flags, trust) if options.gin_file else reference.read(reference.package_files())
    if options.pattern is not None:
        names = [binding.name for binding in found]
        found = [binding for binding in found if binding.matches(options.pattern)]
        if not found:
            raise UserError(f'No macro or parameter matches {options.pattern!r}.{closest(options.pattern, names)}')
    if options.markdown is None:
        print(reference.as_text(found))
        return 0
    options.markdown.parent.mkdir(parents=True, exist_ok=True)
    options.markdown.write_text(reference.as_markdown(found), encoding='utf-8')
    print(f'bindings   {len(found)} in {options.markdown}')
    return 0


def _bindings(gin_files: Sequence[str], flags: Sequence[tuple[str, str]], trust: Trust) -> list[reference.Binding]:
    """Return the bindings that hold in some files and flags."""
    effective: dict[str, Statement] = {}
    imports: list[Import] = []
    for statements, file_imports in read_trusted([open_source(name) for name in gin_files], trust):
        effective |= {statement.name: statement for statement in statements}
        imports += file_imports
    effective |= {statement.name: statement for statement, _ in (read_flag(name, value) for name, value in flags)}
    return reference.collect(list(effective.values()), imports)
