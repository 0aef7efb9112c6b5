"""A trained model on a file of texts: a line out for every row in, in the same order."""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from palm_jax.api.trained_model import Trained
from palm_jax.data.readers import tables
from palm_jax.data.readers.bad_rows import BadRows
from palm_jax.data.readers.files import glob_files
from palm_jax.data.readers.tables import Row
from palm_jax.data.supervised.labelled_text import LabelledText
from palm_jax.data.supervised.tagged_text import TaggedText
from palm_jax.data.supervised.text_to_text import TextToText
from palm_jax.errors import UserError

Answers = list[dict[str, Any]]
_PROMPT = 'text'


def write(model: Trained, source: str, output: str, about: Mapping[str, Any], batch_size: int = 32) -> tuple[int, int]:
    """Writes JSON lines: a row's own columns and what the model says of it, or its error.

    What is added: `predicted` (a label, labels, a number, a text) and `probabilities` of a head,
    `entities` of a tagger with the places of their characters. A run that was stopped is
    continued where it was, from `OUTPUT.part`.

    Args:
      model: of a head, a tagger, text to text, a dialogue; a language model continues the column `text`.
      source: a table, see `tables.read`, or a `.txt` file with a text a line.
      output: a `.jsonl` file, which must not exist yet.
      about: what must be the same for a run to be continued.
      batch_size: rows worked on at one time.

    Returns:
      How many rows were answered, and how many have an error.
    """
    final, part, note = Path(output), Path(f'{output}.part'), Path(f'{output}.part.json')
    if final.exists():
        raise UserError(f'--output={output} exists already. Name another file, or remove it.')
    rows = functools.partial(_rows, source)
    total = sum(1 for _ in rows())
    about = {**about, 'input': source, 'rows': total}
    done = _continued(part, note, about)
    if done:
        print(f'continuing behind row {done:,} of {part}')
    ask, answer = _kind(model)
    num_bad = sum('error' in json.loads(line) for line in part.read_text().splitlines())
    with part.open('a') as file, tqdm(total=total, initial=done, unit=' rows') as progress:
        for first, batch in _batches(rows(), batch_size):
            if first + len(batch) <= done:
                continue
            lines = _answered(batch, ask, functools.partial(answer, first=first))[max(0, done - first) :]
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
    """Errors stand where their rows would, so that the order is kept."""

    def keep(self, items, make):
        for item in items:
            try:
                yield make(item)
            except UserError as error:
                yield error


def _rows(source: str) -> Iterator[Row | UserError]:
    for file in glob_files(source, '--input'):
        if file.suffix == '.txt':
            yield from (Row({_PROMPT: line.rstrip('\r\n')}, f'{file.name}, line {n}') for n, line in file.lines())
        else:
            yield from tables.rows(file, '--input', bad=_InPlace())


def _batches(rows: Iterator[Row | UserError], size: int) -> Iterator[tuple[int, list[Row | UserError]]]:
    """(number of the first, rows) of every batch."""
    batch, first = [], 0
    for row in rows:
        batch.append(row)
        if len(batch) == size:
            yield first, batch
            first, batch = first + size, []
    if batch:
        yield first, batch


def _answered(batch: Sequence[Row | UserError], ask: Callable[[Row], Any], answer: Callable) -> Answers:
    asked: list[tuple[Row, Any] | UserError] = []
    for row in batch:
        try:
            asked.append(row if isinstance(row, UserError) else (row, ask(row)))
        except UserError as error:
            asked.append(error)
    good = [pair for pair in asked if not isinstance(pair, UserError)]
    answers = iter(answer([given for _, given in good]) if good else [])
    return [{'error': str(pair)} if isinstance(pair, UserError) else pair[0].values | next(answers) for pair in asked]


def _kind(model: Trained) -> tuple[Callable[[Row], Any], Callable[..., Answers]]:
    """What a row of this model's input holds, and what the model says of several."""
    data = model.data

    def column(name: str, binding: str) -> Callable[[Row], str]:
        return lambda row: tables.require(row, name, binding)

    if isinstance(data, LabelledText):
        first, second = data.table.text_column, data.table.second_text_column
        text, second_text = column(first, 'TEXT_COLUMN'), column(second or first, 'SECOND_TEXT_COLUMN')

        def label(pairs, first):
            del first
            seconds = None if second is None else [pair[1] for pair in pairs]
            return [_labelled(said, data.table.kind) for said in model.predict([pair[0] for pair in pairs], seconds)]

        return lambda row: (text(row), second_text(row)), label
    if isinstance(data, TaggedText):
        return column(_PROMPT, 'TEXT_COLUMN'), lambda texts, first: [{'entities': e} for e in model.find(texts)]
    if isinstance(data, TextToText):

        def given(row: Row) -> Any:
            values = {k: _parsed(v) if k == 'messages' else v for k, v in row.values.items()}
            try:
                data.asked(values)
            except UserError as error:
                raise UserError(f'{row.location}: {error}') from None
            return values

        return given, lambda rows, first: [{'predicted': text} for text in model.answer(rows, first=first)]

    def prompt(row: Row) -> str:
        text = tables.require(row, _PROMPT, 'TEXT_COLUMN')
        if len(data.vocabulary.encode(text)) + 1 >= data.length:
            raise UserError(f'{row.location}: the text is longer than the {data.length} tokens that the model reads.')
        return text

    return prompt, lambda texts, first: [{'predicted': text} for text in model.generate(texts, first=first)]


def _labelled(said: float | dict[str, float], kind: str) -> dict[str, Any]:
    if kind == 'number':
        return {'predicted': said}
    if kind == 'class':
        return {'predicted': next(iter(said)), 'probabilities': said}
    return {'predicted': [name for name, p in said.items() if p > 0.5], 'probabilities': said}


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def _continued(part: Path, note: Path, about: Mapping[str, Any]) -> int:
    """How many rows an earlier run has written; what it left of a line is cut off."""
    if not part.exists():
        if not part.parent.is_dir():
            raise UserError(f'--output: there is no folder {part.parent}.')
        note.write_text(json.dumps(about))
        part.touch()
        return 0
    before = json.loads(note.read_text()) if note.exists() else {}
    changed = [name for name in about if before.get(name) != about[name]]
    if changed:
        raise UserError(
            f'{part} is of another run ({", ".join(f"{n} {before.get(n)!r}, now {about[n]!r}" for n in changed)}). '
            'Remove it, or name another --output.'
        )
    content = part.read_bytes()
    whole = content[: content.rfind(b'\n') + 1]
    if whole != content:
        part.write_bytes(whole)
    return whole.count(b'\n')
