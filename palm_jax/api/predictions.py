"""Predictions for the rows of a file: one line per row, in the same order."""

from __future__ import annotations

import functools
import json
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from palm_jax.api.trained_model import TrainedModel
from palm_jax.data.readers import tables
from palm_jax.data.readers.bad_rows import BadRows
from palm_jax.data.readers.delimited import Layout
from palm_jax.data.readers.files import File, check_text, glob_files
from palm_jax.data.readers.row import Row
from palm_jax.errors import UserError

_LOGGER = logging.getLogger(__name__)


def write(
    model: TrainedModel, source: str, output: str, metadata: Mapping[str, Any], batch_size: int = 32
) -> tuple[int, int]:
    """Write JSON lines: each row's own columns with the prediction for it, or its error.

    The predictor says which keys are added: `predicted` (a label, labels, a number, a text) and `probabilities`, or
    `entities`. A run that was interrupted is resumed from `OUTPUT.part`.

    Args:
      model: trained model.
      source: table, see `tables.read`, or a `.txt` file with a text per line.
      output: path of a `.jsonl` file that does not exist yet.
      metadata: values that must be unchanged for a run to be resumed.
      batch_size: rows per batch.

    Returns:
      The number of rows with a prediction, and of those with an error.

    Raises:
      UserError: if `output` exists, its directory does not, or an interrupted run had other metadata.
    """
    final, part, note = Path(output), Path(f'{output}.part'), Path(f'{output}.part.json')
    if final.exists():
        raise UserError(f'--output={output} exists already. Name another file, or remove it.')
    rows = functools.partial(_rows, source, getattr(model.data, 'layout', Layout()))
    total = sum(1 for _ in rows())
    done = _resume(part, note, {**metadata, 'input': source, 'rows': total})
    if done:
        _LOGGER.info('resuming after row %s of %s', f'{done:,}', part)
    num_bad = sum('error' in json.loads(line) for line in part.read_text().splitlines())
    with part.open('a') as file, tqdm(total=total, initial=done, unit=' rows') as progress:
        for first, batch in _batches(rows(), batch_size):
            if first + len(batch) <= done:
                continue
            lines = _answer(model, batch, first, batch_size)[max(0, done - first) :]
            file.writelines(json.dumps(line, ensure_ascii=False) + '\n' for line in lines)
            file.flush()
            os.fsync(file.fileno())
            for line in lines:
                if 'error' in line:
                    num_bad += 1
                    progress.write(line['error'])
            progress.update(len(lines))
    part.rename(final)
    note.unlink()
    return total - num_bad, num_bad


class _InPlace(BadRows):
    """Yields an error in place of each bad row, so that the order is kept."""

    def keep(self, items, make):
        for item in items:
            try:
                yield make(item)
            except UserError as error:
                yield error


def _rows(source: str, layout: Layout) -> Iterator[Row | UserError]:
    for file in glob_files(source, '--input'):
        if file.suffix == '.txt':
            yield from _InPlace().keep(file.lines(), functools.partial(_line, file))
        else:
            yield from tables.rows(file, '--input', layout, bad=_InPlace())


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
    inputs = [item[1] for item in parsed if not isinstance(item, UserError)]
    predictions = iter(model.predict(inputs, batch_size=batch_size, first=first) if inputs else [])
    return [
        {'error': str(item)}
        if isinstance(item, UserError)
        else item[0].values | model.predictor.to_json(next(predictions))
        for item in parsed
    ]


def _resume(part: Path, note: Path, metadata: Mapping[str, Any]) -> int:
    """Return the number of rows that an earlier run has written; an incomplete line at the end is removed."""
    if not part.exists():
        if not part.parent.is_dir():
            raise UserError(f'--output: there is no folder {part.parent}.')
        note.write_text(json.dumps(metadata))
        part.touch()
        return 0
    before = json.loads(note.read_text()) if note.exists() else {}
    changed = [name for name in metadata if before.get(name) != metadata[name]]
    if changed:
        differences = ', '.join(f'{name} {before.get(name)!r}, now {metadata[name]!r}' for name in changed)
        raise UserError(f'{part} is of another run ({differences}). Remove it, or name another --output.')
    content = part.read_bytes()
    whole = content[: content.rfind(b'\n') + 1]
    if whole != content:
        part.write_bytes(whole)
    return whole.count(b'\n')
