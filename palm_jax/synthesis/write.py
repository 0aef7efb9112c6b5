"""The file of made texts: a JSON object per text, written in chunks of rows, so that an interrupted call goes on.

The first chunks are small, and slow makers keep them small: little is lost. Fast ones, and programs that take long to
start, get larger ones. What is made of a row does not depend on its chunk.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from palm_jax.api.predictions import Output, reserve
from palm_jax.data.readers import columns
from palm_jax.data.readers.row import Row
from palm_jax.data.readers.splits import text_key
from palm_jax.errors import UserError
from palm_jax.run_directory import write_whole
from palm_jax.synthesis.confidence import Confidence
from palm_jax.synthesis.maker import Maker, usable

_LOGGER = logging.getLogger(__name__)
_FIRST_CHUNK, _LARGEST_CHUNK = 8, 256  # rows that are made together
_LONG_CHUNK = 20.0  # seconds; a chunk that takes less is followed by one that is twice as large


@dataclasses.dataclass
class Counts:
    """What became of the texts that a call made.

    Attributes:
      made: number of texts.
      unchanged: number of those that are empty, or the text of a row of the table, or were made before.
      doubtful: number of those that the filter left out.
      kept: number of those that were written.
    """

    made: int = 0
    unchanged: int = 0
    doubtful: int = 0
    kept: int = 0


def write(
    rows: Sequence[Row],
    output: str,
    maker: Maker,
    copies: int = 1,
    text_column: str = 'text',
    confidence: Confidence | None = None,
) -> Counts:
    """Write the texts that are made of rows.

    A line has `text`, the text of the row; `augmented`, what was made of it; `origin`; and, with a filter,
    `confidence`. Texts that the table has, and repeated ones, are left out.

    Args:
      rows: rows of the table.
      output: path of a `.jsonl` file that does not exist yet.
      maker: makes the texts.
      copies: number of texts that are made of a row, at most.
      text_column: column with the text.
      confidence: filter; None keeps all.

    Raises:
      UserError: the file exists or cannot be written, a row cannot be used, or an interrupted call was another one.
    """
    texts = [columns.text(row, text_column, None) for row in rows]
    if confidence is not None:
        confidence.check(rows)
    if copies > 1 and not maker.is_random:
        _LOGGER.warning(f'one copy instead of {copies}: {maker.name} samples in no step, so all copies would be equal')
        copies = 1
    state = {
        'maker': [maker.name, maker.depends_on()],
        'copies': copies,
        'text_column': text_column,
        'filter': None if confidence is None else confidence.depends_on(),
        'input': hashlib.sha256(repr([row.values for row in rows]).encode(errors='surrogatepass')).hexdigest(),
    }
    state = json.loads(json.dumps(state))
    with reserve(output) as reserved:
        done, counts = _resume(reserved, state)
        known = {text_key([text]) for text in texts} | _already(reserved.part)
        with tqdm(total=len(rows), initial=done, unit=' rows', desc=maker.name, leave=False) as progress:
            size = _FIRST_CHUNK
            while done < len(rows):
                part, began = slice(done, done + size), time.monotonic()
                lines = _lines(rows[part], texts[part], done, maker, copies, confidence, known, counts)
                with reserved.part.open('a', encoding='utf-8') as file:
                    file.writelines(json.dumps(line, ensure_ascii=False) + '\n' for line in lines)
                    file.flush()
                    os.fsync(file.fileno())
                    end = file.tell()
                progress.update(min(size, len(rows) - done))
                done = min(done + size, len(rows))
                note = {'depends_on': state, 'done': done, 'bytes': end, 'counts': dataclasses.asdict(counts)}
                write_whole(reserved.note, json.dumps(note))
                if time.monotonic() - began < _LONG_CHUNK:
                    size = min(2 * size, _LARGEST_CHUNK)
        reserved.part.rename(reserved.path)
        reserved.note.unlink(missing_ok=True)
    if not counts.kept:
        _LOGGER.warning(f'no text was kept, {output} is empty: all were unchanged, repeated, or left out by the filter')
    return counts


def _lines(
    rows: Sequence[Row],
    texts: Sequence[str],
    first: int,
    maker: Maker,
    copies: int,
    confidence: Confidence | None,
    known: set[str],
    counts: Counts,
) -> list[dict[str, Any]]:
    """Return the lines of a chunk of rows, those of a row next to each other."""
    made = [maker.make(rows, texts, copy, first) for copy in range(copies)]
    found = [(number, usable(of_copy[number])) for number in range(len(rows)) for of_copy in made]
    counts.made += len(found)
    new = [(number, text) for number, text in found if text.strip() and text_key([text]) not in known]
    counts.unchanged += len(found) - len(new)
    sure: Sequence[float | None] = [None] * len(new)
    if confidence is not None:
        sure = confidence.of_label([rows[number] for number, _ in new], [text for _, text in new])
    lines: list[dict[str, Any]] = []
    for (number, text), p in zip(new, sure, strict=True):
        if confidence is not None and p is not None and p < confidence.threshold:
            counts.doubtful += 1
        elif (key := text_key([text])) in known:  # made twice in these rows
            counts.unchanged += 1
        else:
            known.add(key)
            line = {'text': texts[number], 'augmented': text, 'origin': maker.name}
            lines.append(line if p is None else line | {'confidence': round(p, 6)})
    counts.kept += len(lines)
    return lines


def _resume(reserved: Output, state: Mapping[str, Any]) -> tuple[int, Counts]:
    """Return the number of rows that an interrupted call has finished, and its counts."""
    if not reserved.note.exists():
        reserved.part.unlink(missing_ok=True)  # of a call that has not finished its first rows
        reserved.part.touch()
        return 0, Counts()
    try:
        note = json.loads(reserved.note.read_text(encoding='utf-8'))
        before, done, size, counts = note['depends_on'], note['done'], note['bytes'], Counts(**note['counts'])
    except (ValueError, KeyError, TypeError):
        raise UserError(f'{reserved.note} is damaged. Remove it and {reserved.part} to begin again.') from None
    if before != state:
        changed = ', '.join(sorted(name for name in {*before, *state} if before.get(name) != state.get(name)))
        raise UserError(
            f'{reserved.part} is of another call ({changed}). Remove it and {reserved.note} to begin again, or name '
            'another --output.'
        )
    os.truncate(reserved.part, size)
    _LOGGER.info('resuming after row %s of %s', f'{done:,}', reserved.part)
    return done, counts


def _already(part: Path) -> set[str]:
    """Return the keys of the texts that an interrupted call has written."""
    with part.open(encoding='utf-8') as file:
        return {text_key([json.loads(line)['augmented']]) for line in file}
