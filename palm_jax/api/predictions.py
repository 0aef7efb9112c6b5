"""Predictions for the rows of a file: one line per row, in the same order.

A call that was interrupted is continued after the last whole line, if input, model and settings are the same, which
their contents decide, not their names; see `prediction_file`.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from palm_jax import locks
from palm_jax.api import prediction_file
from palm_jax.api.prediction_file import OutputFile
from palm_jax.api.trained_model import TrainedModel
from palm_jax.checkpoint_metadata import read_seals
from palm_jax.data.readers import tables
from palm_jax.data.readers.bad_rows import BadRows
from palm_jax.data.readers.delimited import Layout
from palm_jax.data.readers.files import File, check_text, glob_files
from palm_jax.data.readers.row import Row
from palm_jax.errors import UserError
from palm_jax.predictors.generator import Generator
from palm_jax.training.initial_parameters import fingerprint

_LOGGER = logging.getLogger(__name__)
_CHUNK = 1 << 20  # bytes
_BATCHES_AT_ONCE = 8
_IF_IN_USE = (
    'name another --output. Processes that are to share it need JOB_COMPLETION_INDEX=0, 1, ... in their environments, '
    'see docs/clusters.md.'
)


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
      UserError: `source` has no rows; `output` exists, its directory does not, another process writes it, or an
        interrupted call had another input, model or other metadata.
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
    final = prediction_file.path_of(output)
    prediction_file.refuse_existing(final, made_from)
    with locks.hold(prediction_file.lock_of(final), f'--output={output}', _IF_IN_USE):
        prediction_file.refuse_existing(final, made_from)  # whoever held the lock may have finished it
        yield Output(final)


class Output(OutputFile):
    """A file of predictions that this process alone writes; see `reserve`."""

    def write(
        self, model: TrainedModel, source: str, metadata: Mapping[str, Any] | None = None, batch_size: int = 32
    ) -> tuple[int, int]:
        """Write the predictions; see `predictions.write`."""
        rows, depends_on = inputs_of(model, source, metadata)

        def lines_from(done: int) -> Iterator[list[str]]:
            for first, batch in batches(rows(), rows_at_once(model, batch_size)):
                if first + len(batch) > done:
                    yield answer(model, batch, first, batch_size)[max(0, done - first) :]

        return self.write_lines(lines_from, depends_on)


def inputs_of(
    model: TrainedModel, source: str, metadata: Mapping[str, Any] | None
) -> tuple[Callable[[], Iterator[Row | UserError]], dict[str, Any]]:
    """Return a function that reads the rows of a file, and what the predictions for them depend on, with their number.

    Args:
      model: trained model.
      source: see `write`.
      metadata: see `write`.

    Raises:
      UserError: there are no rows.
    """
    rows = functools.partial(read_rows, source, getattr(model.data, 'layout', Layout()))
    of_files, total = origin(model.config, model.checkpoint, source, metadata), sum(1 for _ in rows())
    return rows, json.loads(json.dumps(of_files | _identity(model) | {'rows': total}))


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

    Raises:
      UserError: there are no rows.
    """
    is_empty = True
    for file in glob_files(source, flag, layout.encoding):
        for row in rows_of_file(file, layout, flag):
            is_empty = False
            yield row
    if is_empty:
        raise UserError(f'{flag} = {source!r}: the file contains no rows.')


def rows_of_file(file: File, layout: Layout, flag: str) -> Iterator[Row | UserError]:
    """Yield the rows of one file, which may be none; see `read_rows`."""
    if file.suffix == '.txt':
        yield from _InPlace().keep(file.lines(), functools.partial(_line, file))
    else:
        yield from tables.rows(file, flag, layout, bad=_InPlace())


def _line(file: File, numbered: tuple[int, str]) -> Row:
    number, line = numbered
    location = f'{file.name}, line {number}'
    return Row({'text': check_text(line.rstrip('\r\n'), location, file)}, location, is_line=True)


def batches(rows: Iterator[Row | UserError], size: int) -> Iterator[tuple[int, list[Row | UserError]]]:
    """Yield (number of the first row, rows) of each batch."""
    batch, first = [], 0
    for row in rows:
        batch.append(row)
        if len(batch) == size:
            yield first, batch
            first, batch = first + size, []
    if batch:
        yield first, batch


def rows_at_once(model: TrainedModel, batch_size: int) -> int:
    """Return how many rows are predicted before their lines are written.

    Of generated texts that is a batch; otherwise several, among which inputs of similar length share a forward pass.
    """
    return batch_size if isinstance(model.predictor, Generator) else _BATCHES_AT_ONCE * batch_size


def answer(model: TrainedModel, batch: Sequence[Row | UserError], first: int, batch_size: int) -> list[str]:
    """Return the line of each row of a batch.

    Args:
      model: trained model.
      batch: rows, or what is wrong with them.
      first: number of the first row in the file, which random choices depend on.
      batch_size: number of rows that are predicted together.
    """
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
    lines = [
        {'error': str(item)}
        if isinstance(item, UserError)
        else _with_prediction(item[0].values, model.predictor.to_json(prediction))
        for item, prediction in zip(parsed, predictions, strict=True)
    ]
    return [json.dumps(line, ensure_ascii=False) + '\n' for line in lines]


def _with_prediction(row: Mapping[str, Any], prediction: Mapping[str, Any]) -> dict[str, Any]:
    if replaced := row.keys() & prediction.keys():
        _warn_of_replaced(tuple(sorted(replaced)))
    return {**row, **prediction}


@functools.cache  # once for all rows
def _warn_of_replaced(columns: tuple[str, ...]) -> None:
    _LOGGER.warning(
        "the input's own %s: replaced by the prediction in the output; rename what you want to keep", ', '.join(columns)
    )
