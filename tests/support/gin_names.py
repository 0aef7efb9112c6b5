"""The names that the package's gin files define and use, as kept in tests/goldens/gin_names.json of earlier code."""

from __future__ import annotations

import importlib
import inspect
import json
from pathlib import Path
from typing import Any

from palm_jax.configuration import gin_adapter
from palm_jax.configuration.statements import Macro, Reference, held, open_file, read_statements

ROOT = Path(__file__).parents[2]
EARLIER = ROOT / 'tests' / 'goldens' / 'gin_names.json'


def names() -> dict[str, Any]:
    """All macros, and all configurables that a gin file names.

    Returns:
      `macros`: by name, the files that define it and those that read it.
      `configurables`: by dotted name (`loop.train`), the module and the parameters.
      `public`: the dotted names of the other public classes and functions of these modules, which a binding of the
        user's own can name.
    """
    macros: dict[str, dict[str, list[str]]] = {}
    modules: dict[str, str] = {}
    used: set[str] = set()

    def note(macro: str, kind: str, file: str) -> None:
        files = macros.setdefault(macro, {'defined_in': [], 'read_in': []})[kind]
        if file not in files:
            files.append(file)

    for path in sorted((ROOT / 'gin').rglob('*.gin')):
        file = path.relative_to(ROOT).as_posix()
        statements, imports = read_statements(open_file(path))
        for imported in imports:
            if not imported.module.startswith('__gin__'):
                modules[imported.bound_name] = imported.module
        for statement in statements:
            if not statement.location.startswith(f'{file}, line'):  # of an included file
                continue
            if statement.is_macro:
                note(statement.name, 'defined_in', file)
            else:
                used.add(statement.selector)
            for macro in held(statement.value, Macro):
                note(macro.name, 'read_in', file)
            used |= {reference.name.rpartition('/')[2] for reference in held(statement.value, Reference)}
    loaded = {short: importlib.import_module(name) for short, name in modules.items()}
    configurables = {}
    for name in used:
        short, _, member = name.rpartition('.')
        signature = inspect.signature(getattr(loaded[short], member))
        configurables[name] = {'module': modules[short], 'parameters': list(signature.parameters)}
    public = {
        f'{short}.{name}'
        for short, module in loaded.items()
        for name, member in vars(module).items()
        if name in gin_adapter.public_names(module) and callable(member)
    }
    return {
        'macros': dict(sorted(macros.items())),
        'configurables': dict(sorted(configurables.items())),
        'public': sorted(public - used),
    }


def text(found: dict[str, Any]) -> str:
    """The names as JSON, one a line."""
    sections = []
    for title, section in found.items():
        if isinstance(section, dict):
            rows = [f'{json.dumps(name)}: {json.dumps(value)}' for name, value in section.items()]
            sections.append(f'{json.dumps(title)}: {{\n' + ',\n'.join(rows) + '\n}')
        else:
            sections.append(f'{json.dumps(title)}: [\n' + ',\n'.join(map(json.dumps, section)) + '\n]')
    return '{\n' + ',\n'.join(sections) + '\n}\n'
