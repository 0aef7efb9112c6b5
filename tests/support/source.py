"""The modules of the package, and what they import."""

import ast

from tests.support.paths import ROOT

PACKAGE = ROOT / 'palm_jax'


def modules(room=''):
    return sorted((PACKAGE / room).rglob('*.py'))


def imports(path):
    """Yields the full name of everything that a module imports, anywhere in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield from (f'{node.module}.{alias.name}' for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def room_of(name):
    """`data/readers` for `palm_jax.data.readers.files.File`."""
    _, first, *rest = [*name.split('.'), '']
    return f'{first}/{rest[0]}' if first == 'data' else first
