"""All use of gin's private state: what is registered, what was called, what is bound."""

from __future__ import annotations

import contextlib
import io
import sys
import types
from collections.abc import Callable, Sequence
from typing import Any

import gin
from gin import config


def clear() -> None:
    """Forget every binding."""
    gin.clear_config()


def selector(name: str) -> str:
    """Return gin's full name of a configurable, from any unambiguous end of it."""
    matches = config._REGISTRY.matching_selectors(name)
    return matches[0] if matches else name


def short(full_name: str) -> str:
    """Return a full name as users write it: `palm_jax.peft.lora.LoRA` as `lora.LoRA`."""
    return '.'.join(full_name.split('.')[-2:])


def function(name: str) -> Callable[..., Any]:
    """Return the function or class of a configurable.

    Raises:
      KeyError: none is registered under the name.
    """
    match = config._REGISTRY.get_match(selector(name))
    if match is None:
        raise KeyError(name)
    return match.wrapped


def called() -> set[str]:
    """Return the selectors of the configurables that gin has called since it was configured."""
    return {full_name for _, full_name in config._OPERATIVE_CONFIG}


def known_names(module: str) -> list[str]:
    """Return the short names of all registered configurables, and of the public functions of a module."""
    registered = config._REGISTRY._selector_map
    names = {short(full_name) for full_name in registered if not full_name.startswith('gin.')}
    for full_name in registered:
        path = full_name.rpartition('.')[0]
        if path in sys.modules and path.rpartition('.')[2] == module:
            names |= {short(f'{path}.{name}') for name in public_names(sys.modules[path])}
    return sorted(names)


def public_names(module: types.ModuleType) -> list[str]:
    """Return the names of a module's own public classes and functions, and of those that a package exports."""
    exported = getattr(module, '__all__', ())
    return [
        name
        for name, value in vars(module).items()
        if name[0] != '_' and (name in exported or getattr(value, '__module__', None) == module.__name__)
    ]


def parse(
    files: Sequence[io.StringIO], lines: Sequence[str], open_include: Callable[[str], contextlib.AbstractContextManager]
) -> None:
    """Let gin parse files, then single lines, and make its configuration final.

    Args:
      files: files in order.
      lines: statements after the files.
      open_include: opens the file that an `include` names, so that gin reads exactly what was checked before.
    """
    readers, prefixes = config._FILE_READERS, config._LOCATION_PREFIXES
    config._FILE_READERS, config._LOCATION_PREFIXES = [(open_include, lambda name: True)], ['']
    try:
        for file in files:
            gin.parse_config(file)
        gin.parse_config(list(lines))
        gin.finalize()
    finally:
        config._FILE_READERS, config._LOCATION_PREFIXES = readers, prefixes


def text(is_kept: Callable[[str, str], bool]) -> str:
    """Return the bindings for which `is_kept(scope, selector)` as the text of a gin file."""
    whole = dict(config._CONFIG)
    try:
        for key in whole:
            if not is_kept(*key):
                del config._CONFIG[key]
        return gin.config_str(max_line_length=100)
    finally:
        config._CONFIG.update(whole)
