"""Predictions for the rows of a file that many processes make: each answers some batches, and one writes the file.

Batches are those of one process, so that the file is the same, byte for byte. Until it is there, the lines are in
`OUTPUT.pieces`, beside a note of what they depend on.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from palm_jax import locks, pieces
from palm_jax.api import prediction_file, predictions
from palm_jax.api.trained_model import TrainedModel
from palm_jax.data.readers.row import Row
from palm_jax.errors import UserError
from palm_jax.run_directory import write_whole

_MOST_PIECES = 1024  # if the rows are many, a piece is several batches


def are_begun(output: str) -> bool:
    """Return whether several processes have begun to write a file, and not finished it."""
    return pieces.folder_of(Path(output).expanduser()).is_dir()


@contextlib.contextmanager
def join(output: str, made_from: Callable[[], Mapping[str, Any]]) -> Iterator[SharedOutput]:
    """Check that this process can write predictions together with others; see `predictions.reserve`.

    Raises:
      UserError: the file exists and was made from something else, or its directory does not exist.
    """
    final = prediction_file.path_of(output)
    prediction_file.refuse_existing(final, made_from, unless_complete=True)
    if final.exists():
        pieces.remove(pieces.folder_of(final))
    yield SharedOutput(final)


class SharedOutput(predictions.Output):
    """A file of predictions that several processes write."""

    @property
    def folder(self) -> Path:
        """The lines of some batches each, until the file is there."""
        return pieces.folder_of(self.path)

    def write(
        self, model: TrainedModel, source: str, metadata: Mapping[str, Any] | None = None, batch_size: int = 32
    ) -> tuple[int, int]:
        rows, depends_on = predictions.inputs_of(model, source, metadata)
        self.check_part(depends_on)
        self._check_pieces(depends_on | {'batch_size': batch_size})
        at_once = predictions.rows_at_once(model, batch_size)
        size = at_once * max(1, -(-depends_on['rows'] // (at_once * _MOST_PIECES)))

        def all_pieces() -> Iterator[pieces.Make]:
            for first, some in predictions.batches(rows(), size):
                yield functools.partial(_answer, model, some, first, batch_size)

        count = pieces.make_all(self.folder, all_pieces, self.path.exists, f'predictions for {source}')
        with locks.wait_for(prediction_file.lock_of(self.path), f'--output={self.path}'):
            if not self.path.exists():
                self.write_lines(functools.partial(self._lines_from, count), depends_on)
            pieces.remove(self.folder)
        return self.count()

    def _check_pieces(self, depends_on: Mapping[str, Any]) -> None:
        """Note what the pieces depend on, or raise an error if those that are there depend on something else."""
        note = self.folder / 'made_from.json'
        with locks.wait_for(note.with_suffix('.lock'), f'the folder {self.folder}'):
            if note.exists():
                prediction_file.check_note(self.folder, note, depends_on)
            else:
                write_whole(note, json.dumps(depends_on))

    def _lines_from(self, count: int, done: int) -> Iterator[list[str]]:
        """Yield the lines of each piece, from line number `done` on."""
        for number in range(count):
            content = pieces.path_of(self.folder, number).read_bytes()
            lines = [line.decode() for line in content.splitlines(keepends=True)]  # of bytes: at line feeds only
            if done < len(lines):
                yield lines[done:]
            done = max(0, done - len(lines))


def _answer(model: TrainedModel, rows: Sequence[Row | UserError], first: int, batch_size: int, path: Path) -> None:
    """Write the lines of consecutive rows, predicted in the batches of one process."""
    at_once = predictions.rows_at_once(model, batch_size)
    with path.open('w', encoding='utf-8') as file:
        for start in range(0, len(rows), at_once):
            batch = rows[start : start + at_once]
            file.writelines(predictions.answer(model, batch, first + start, batch_size))
        file.flush()
        os.fsync(file.fileno())
