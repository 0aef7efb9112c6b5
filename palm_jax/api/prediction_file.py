"""The file that predictions are written to, line by line: what is there already, and what it depends on.

While lines are being written, they are in `OUTPUT.part`, beside a note of what they depend on. The note of a finished
file is `OUTPUT.made_from.json`: a call that finds the file says what has changed since.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import re
import shlex
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from tqdm import tqdm

from palm_jax.errors import UserError

_LOGGER = logging.getLogger(__name__)


def path_of(output: str) -> Path:
    """Return the path of a file of predictions.

    Raises:
      UserError: its directory does not exist, or it is not a local file.
    """
    final = Path(output).expanduser()
    if re.match(r'\w\w+:/', output):  # not a drive of Windows
        raise UserError(f'--output={output}: predictions are written to a local file; copy it there afterwards.')
    if not final.name or final.is_dir():
        raise UserError(f'--output={output} is a folder. Name a file in it: {final / "predictions.jsonl"}')
    if not final.parent.is_dir():
        raise UserError(f'--output: there is no folder {final.parent}.')
    return final


def lock_of(final: Path) -> Path:
    """Return the lock of the process that writes a file of predictions."""
    return Path(f'{final}.lock')


def refuse_existing(final: Path, made_from: Callable[[], Mapping[str, Any]], unless_complete: bool = False) -> None:
    """Raise an error if a file of predictions exists, which says how it relates to what is asked for now.

    Args:
      final: path of the file.
      made_from: returns what the file would be made from now, see `predictions.origin`.
      unless_complete: whether a file that was made from the same is accepted.
    """
    if not final.exists():
        return
    note, now = OutputFile(final).finished_note, json.loads(json.dumps(made_from()))
    if unless_complete and now and not _changes(note, now):
        return
    other = final.with_name(f'{final.stem}_2{final.suffix}')
    raise UserError(
        f'--output={final} exists already{_compare(note, now)}. To make it again, name another file, e.g. '
        f'--output={other}, or remove it: {shlex.join(["rm", str(final)])}'
    )


@dataclasses.dataclass(frozen=True)
class OutputFile:
    """A file of predictions.

    Attributes:
      path: path of the finished file.
    """

    path: Path

    @property
    def part(self) -> Path:
        """The lines so far."""
        return Path(f'{self.path}.part')

    @property
    def note(self) -> Path:
        """What the lines so far depend on."""
        return Path(f'{self.path}.part.json')

    @property
    def finished_note(self) -> Path:
        """What the finished file was made from."""
        return Path(f'{self.path}.made_from.json')

    def write_lines(
        self, lines_from: Callable[[int], Iterator[list[str]]], depends_on: Mapping[str, Any]
    ) -> tuple[int, int]:
        """Write lines after those of an earlier call that was interrupted.

        Args:
          lines_from: returns the lines from a number on, some at a time.
          depends_on: what they depend on, see `predictions.inputs_of`.

        Returns:
          The number of rows with a prediction, and of those with an error.
        """
        done, num_bad = self._resume(depends_on)
        total = depends_on['rows']
        if done:
            _LOGGER.info('resuming after row %s of %s', f'{done:,}', self.part)
        with self.part.open('a', encoding='utf-8') as file, tqdm(total=total, initial=done, unit=' rows') as progress:
            for lines in lines_from(done):
                file.writelines(lines)
                file.flush()
                os.fsync(file.fileno())
                for line in filter(_is_error, map(json.loads, lines)):
                    num_bad += 1
                    progress.write(line['error'])
                progress.update(len(lines))
        if self.note.exists():
            self.note.replace(self.finished_note)
        self.part.rename(self.path)
        return total - num_bad, num_bad

    def count(self) -> tuple[int, int]:
        """Return the number of rows of the finished file with a prediction, and of those with an error."""
        total, num_bad, _ = _counts(self.path)
        return total - num_bad, num_bad

    def check_part(self, depends_on: Mapping[str, Any]) -> None:
        """Raise an error if the lines so far depend on something else."""
        # A call that was killed at its very end has renamed its note already, but not the lines.
        if self.part.exists():
            check_note(self.part, self.note if self.note.exists() else self.finished_note, depends_on)

    def _resume(self, depends_on: Mapping[str, Any]) -> tuple[int, int]:
        """Return the number of rows written by an earlier call, and how many of them are errors.

        An incomplete line at the end is cut off.
        """
        if not self.part.exists():
            self.note.write_text(json.dumps(depends_on), encoding='utf-8')
            self.part.touch()
            return 0, 0
        self.check_part(depends_on)
        done, num_bad, whole = _counts(self.part)
        os.truncate(self.part, whole)
        return done, num_bad


def _counts(path: Path) -> tuple[int, int, int]:
    """Return the number of whole lines of a file, of those that are errors, and the length of all of them in bytes."""
    count = num_bad = whole = 0
    with path.open('rb') as file:  # as bytes: JSON strings may hold what else ends a line, such as U+2028
        for line in file:
            if line.endswith(b'\n'):
                count, whole = count + 1, whole + len(line)
                num_bad += _is_error(_parse(line, f'{path}, line {count}'))
    return count, num_bad, whole


def check_note(what: Path, note: Path, depends_on: Mapping[str, Any]) -> None:
    """Raise an error if something that was begun depends on something else than what is asked for now."""
    if changed := _changes(note, depends_on):
        raise UserError(f'{what} is of another run ({changed}). Remove it to begin again, or name another --output.')


def _changes(note: Path, depends_on: Mapping[str, Any]) -> str:
    """Return which values a note has otherwise, as text; empty if it agrees."""
    try:
        before = json.loads(note.read_text(encoding='utf-8'))
    except (OSError, ValueError):
        return f'{note.name} does not say of which'
    changed = [name for name, value in depends_on.items() if before.get(name) != value]
    return ', '.join(f'{name} {before.get(name)!r}, now {depends_on[name]!r}' for name in changed)


def _compare(note: Path, made_from: Mapping[str, Any]) -> str:
    """Return how a finished file relates to what is asked for now, as the end of a clause."""
    if not made_from or not note.is_file():
        return ''
    changed = _changes(note, made_from)
    return f', but is of something else: {changed}' if changed else ', and is complete: nothing has changed since'


def _parse(line: bytes, location: str) -> dict[str, Any]:
    try:
        return dict(json.loads(line))
    except (ValueError, TypeError):
        raise UserError(f'{location} is damaged. Remove the file to begin again.') from None


def _is_error(line: Mapping[str, Any]) -> bool:
    """Return whether a line says what is wrong with its row; a prediction has more keys than a column `error`."""
    return line.keys() == {'error'}
