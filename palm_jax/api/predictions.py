"""Predictions for the rows of a file: one line per row, in the same order.

While they are being written, they are in `OUTPUT.part`, beside a note of what they depend on. The same call continues
after the last whole line, if input, model and settings are the same, which their contents decide, not their names. The
note of a finished file is `OUTPUT.made_from.json`: a call that finds the file says what has changed since.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import json
import logging
import os
import re
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from palm_jax import locks
from palm_jax.api.trained_model import TrainedModel
from palm_jax.checkpoint_metadata import read_seals
from palm_jax.data.readers import tables
from palm_jax.data.readers.bad_rows import BadRows
from palm_jax.data.readers.delimited import Layout
from palm_jax.data.readers.files import File, check_text, glob_files
from palm_jax.data.readers.row import Row
from palm_jax.errors import UserError
from palm_jax.training.initial_parameters import fingerprint

_LOGGER = logging.getLogger(__name__)
_CHUNK = 1 << 20  # bytes


def write(
    model: TrainedModel,
    source: str,
    output: str,
    metadata: Mapping[str, Any] | None = None,
    batch_size: int = 32,
) -> tuple[int, int]:
    """Write JSON lines: each row's own columns with the prediction for it, or its error.

    The predictor says which keys are added: `predicted` (a label, labels, a number, a text) and `probabilities`, or
    `entities`. A call that was interrupted is resumed from `OUTPUT.part`.

    Args:
      model: trained model.
      source: table, see `tables.read`, or a `.txt` file with a text per line.
      output: path of a `.jsonl` file that does not exist yet.
      metadata: values besides input and model that must be unchanged for a call to be resumed.
      batch_size: rows per batch.

    Returns:
      The number of rows with a prediction, and of those with an error.

    Raises:
      UserError: `output` exists, its directory does not, another process writes it, or an interrupted call had
        another input, model or other metadata.
    """
    with reserve(output, lambda: origin(model.config, model.checkpoint, source, metadata)) as reserved:
        return reserved.write(model, source, metadata, batch_size)


def origin(
    config: Path, checkpoint: Path | None, source: str, metadata: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Return what predictions are made from, by content, as far as it is known before the model is loaded.

    Args:
      config: config.gin of the run.
      checkpoint: checkpoint of the model; None where there is none.
      source: see `write`.
      metadata: see `write`.
    """
    seals = [] if checkpoint is None else [dict(seal.files) for seal in read_seals(checkpoint)]
    return {
        'input': _sha256(source),
        'checkpoint': None if checkpoint is None else f'{checkpoint.name} ({_digest(json.dumps(seals).encode())})',
        'config.gin': _digest(config.read_bytes()),
    } | dict(metadata or {})


@contextlib.contextmanager
def reserve(output: str, made_from: Callable[[], Mapping[str, Any]] = dict) -> Iterator[Output]:
    """Check that a file of predictions can be written, and keep other processes from writing it meanwhile.

    Args:
      output: path of a `.jsonl` file that does not exist yet.
      made_from: returns the `origin` of the predictions, for the message about a file that exists.

    Raises:
      UserError: it exists, its directory does not, or another process writes it.
    """
    final = Path(output).expanduser()
    if re.match(r'\w\w+:/', output):  # not a drive of Windows
        raise UserError(f'--output={output}: predictions are written to a local file; copy it there afterwards.')
    if not final.name or final.is_dir():
        raise UserError(f'--output={output} is a folder. Name a file in it: {final / "predictions.jsonl"}')
    if not final.parent.is_dir():
        raise UserError(f'--output: there is no folder {final.parent}.')

    def refuse_existing() -> None:
        if final.exists():
            what = _compare(Output(final).finished_note, json.loads(json.dumps(made_from())))
            other = final.with_name(f'{final.stem}_2{final.suffix}')
            raise UserError(
                f'--output={output} exists already{what}. To predict again, name another file, e.g. --output={other}, '
                f'or remove it: {shlex.join(["rm", str(final)])}'
            )

    refuse_existing()
    with locks.hold(Path(f'{final}.lock'), f'--output={output}', 'name another --output.'):
        refuse_existing()  # whoever held the lock may have finished it
        yield Output(final)


@dataclasses.dataclass(frozen=True)
class Output:
    """A file of predictions that this process alone writes; see `reserve`.

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

    def write(
        self, model: TrainedModel, source: str, metadata: Mapping[str, Any] | None = None, batch_size: int = 32
    ) -> tuple[int, int]:
        """Write the predictions; see `predictions.write`."""
        rows = functools.partial(read_rows, source, getattr(model.data, 'layout', Layout()))
        total = sum(1 for _ in rows())
        depends_on = origin(model.config, model.checkpoint, source, metadata) | _identity(model) | {'rows': total}
        done, num_bad = self._resume(json.loads(json.dumps(depends_on)))
        if done:
            _LOGGER.info('resuming after row %s of %s', f'{done:,}', self.part)
        with self.part.open('a', encoding='utf-8') as file, tqdm(total=total, initial=done, unit=' rows') as progress:
            for first, batch in _batches(rows(), batch_size):
                if first + len(batch) <= done:
                    continue
                lines = _answer(model, batch, first, batch_size)[max(0, done - first) :]
                file.writelines(json.dumps(line, ensure_ascii=False) + '\n' for line in lines)
                file.flush()
                os.fsync(file.fileno())
                for line in filter(_is_error, lines):
                    num_bad += 1
                    progress.write(line['error'])
                progress.update(len(lines))
        if self.note.exists():
            self.note.replace(self.finished_note)
        self.part.rename(self.path)
        return total - num_bad, num_bad

    def _resume(self, depends_on: Mapping[str, Any]) -> tuple[int, int]:
        """Return the number of rows written by an earlier call, and how many of them are errors.

        An incomplete line at the end is cut off.
        """
        if not self.part.exists():
            self.note.write_text(json.dumps(depends_on), encoding='utf-8')
            self.part.touch()
            return 0, 0
        # A call that was killed at its very end has renamed its note already, but not the lines.
        changed = _changes(self.note if self.note.exists() else self.finished_note, depends_on)
        if changed:
            raise UserError(
                f'{self.part} is of another run ({changed}). Remove it to begin again, or name another --output.'
            )
        done = num_bad = whole = 0
        with self.part.open('rb') as file:  # as bytes: JSON strings may hold what else ends a line, such as U+2028
            for line in file:
                if line.endswith(b'\n'):
                    done, whole = done + 1, whole + len(line)
                    num_bad += _is_error(_parse(line, f'{self.part}, line {done}'))
        os.truncate(self.part, whole)
        return done, num_bad


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


def _identity(model: TrainedModel) -> dict[str, str]:
    """Return what the predictions of a loaded model depend on besides, by content."""
    return {
        'model': fingerprint(model.params),
        'vocabulary': model.data.vocabulary.fingerprint,
    }


def _sha256(source: str) -> str:
    """Return a hash of the contents of files, and of their formats."""
    digest = hashlib.sha256()
    for file in glob_files(source, '--input'):
        digest.update(f'{file.suffix}\0'.encode())
        with file.open() as content:
            while chunk := content.read(_CHUNK):
                digest.update(chunk)
    return digest.hexdigest()[:16]


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def _parse(line: bytes, location: str) -> dict[str, Any]:
    try:
        return dict(json.loads(line))
    except (ValueError, TypeError):
        raise UserError(f'{location} is damaged. Remove the file to begin again.') from None


def _is_error(line: Mapping[str, Any]) -> bool:
    """Return whether a line says what is wrong with its row; a prediction has more keys than a column `error`."""
    return line.keys() == {'error'}


class _InPlace(BadRows):
    """Yields an error in place of each bad row, so that the order is kept."""

    def keep(self, items, make):
        for item in items:
            try:
                yield make(item)
            except UserError as error:
                yield error


def read_rows(source: str, layout: Layout, flag: str = '--input') -> Iterator[Row | UserError]:
    """Yield the rows of files, or what is wrong with a row in its place.

    Args:
      source: table, see `tables.read`, or a `.txt` file with a text per line.
      layout: layout of the files.
      flag: flag that names the files, for messages.
    """
    for file in glob_files(source, flag, layout.encoding):
        if file.suffix == '.txt':
            yield from _InPlace().keep(file.lines(), functools.partial(_line, file))
        else:
            yield from tables.rows(file, flag, layout, bad=_InPlace())


def _line(file: File, numbered: tuple[int, str]) -> Row:
    number, line = numbered
    location = f'{file.name}, line {number}'
    return Row({'text': check_text(line.rstrip('\r\n'), location, file)}, location, is_line=True)


def _batches(rows: Iterator[Row | UserError], size: int) -> Iterator[tuple[int, list[Row | UserError]]]:
    """Yield (number of the first row, rows) of each batch."""
    batch, first = [], 0
    for row in rows:
        batch.append(row)
        if len(batch) == size:
            yield first, batch
            first, batch = first + size, []
    if batch:
        yield first, batch


def _answer(model: TrainedModel, batch: Sequence[Row | UserError], first: int, batch_size: int) -> list[dict[str, Any]]:
    """Return the line of each row of a batch."""
    parsed: list[tuple[Row, Any] | UserError] = []
    for row in batch:
        try:
            parsed.append(row if isinstance(row, UserError) else (row, model.predictor.parse(model, row)))
        except UserError as error:
            parsed.append(error)
    valid = [item[1] for item in parsed if not isinstance(item, UserError)]
    # In place of a row that cannot be read stands another: random choices depend on an input's number.
    inputs = [valid[0] if isinstance(item, UserError) else item[1] for item in parsed] if valid else []
    predictions = model.predict(inputs, batch_size=batch_size, first=first) if valid else [None] * len(batch)
    return [
        {'error': str(item)}
        if isinstance(item, UserError)
        else _with_prediction(item[0].values, model.predictor.to_json(prediction))
        for item, prediction in zip(parsed, predictions, strict=True)
    ]


def _with_prediction(row: Mapping[str, Any], prediction: Mapping[str, Any]) -> dict[str, Any]:
    if replaced := row.keys() & prediction.keys():
        _warn_of_replaced(tuple(sorted(replaced)))
    return {**row, **prediction}


@functools.cache  # once for all rows
def _warn_of_replaced(columns: tuple[str, ...]) -> None:
    _LOGGER.warning(
        "the input's own %s: replaced by the prediction in the output; rename what you want to keep", ', '.join(columns)
    )
