"""JSON files that programs left for other programs: what a crash or a hand has damaged is one message."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from palm_jax.errors import UserError


def read_json(path: Path) -> dict[str, Any]:
    """Return the object that a JSON file holds.

    Raises:
      UserError: the file is missing, or it is not an object in JSON.
    """
    return _object(_content(path), f'{path}')


def read_json_lines(path: Path) -> list[dict[str, Any]]:
    """Return the object of every line of a file; only line feeds end a line.

    Raises:
      UserError: the file is missing, or a line is not an object in JSON.
    """
    lines = enumerate(_content(path).split(b'\n'), 1)
    return [_object(line, f'{path}, line {number}') for number, line in lines if line]


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f'{path} cannot be read: {error.strerror or error}.') from None


def _object(content: bytes, location: str) -> dict[str, Any]:
    try:
        found = json.loads(content)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise UserError(f'{location} is damaged: it is not an object in JSON.')
    return found
