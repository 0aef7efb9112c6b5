"""Flags of a command line: `--gin_file=part.gin` and `--gin.NAME=value`."""

from __future__ import annotations

from collections.abc import Sequence

from palm_jax.errors import UserError

_GIN_FILE = '--gin_file'


def split_flags(arguments: Sequence[str]) -> tuple[list[str], list[tuple[str, str]]]:
    """Split arguments into ordinary ones and (NAME, value) of every `--gin.NAME=value` or `--gin.NAME value`."""
    rest: list[str] = []
    flags: list[tuple[str, str]] = []
    pending: str | None = None  # the NAME whose value is the next argument
    for argument in arguments:
        if pending is not None:
            flags.append((pending, argument))
            pending = None
        elif argument.startswith('--gin.'):
            name, equals, value = argument.removeprefix('--gin.').partition('=')
            if equals:
                flags.append((name.strip(), value.strip() or value))
            else:
                pending = name
        else:
            rest.append(argument)
    if pending is not None:
        raise UserError(f'--gin.{pending} needs a value: --gin.{pending}=...')
    return rest, flags


def gin_flags(flags: Sequence[str]) -> tuple[list[str], list[tuple[str, str]]]:
    """Split flags into the files of every `--gin_file=...` and (NAME, value) of every `--gin.NAME=value`.

    Raises:
      UserError: a flag is neither.
    """
    rest, bindings = split_flags(flags)
    for flag in rest:
        if not flag.startswith(f'{_GIN_FILE}='):
            raise UserError(f'{flag!r} is neither {_GIN_FILE}=part.gin nor --gin.NAME=value.')
    return [flag.removeprefix(f'{_GIN_FILE}=') for flag in rest], bindings
