"""The texts that may be labelled next: a table without those that have a label, each once, sampled if it is large."""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import io
import logging
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from tqdm import tqdm

from palm_jax.api.predictions import rows_of_file
from palm_jax.data.readers import columns
from palm_jax.data.readers.delimited import Layout
from palm_jax.data.readers.files import glob_files
from palm_jax.data.readers.row import Row
from palm_jax.data.readers.splits import Split
from palm_jax.errors import UserError
from palm_jax.predictors.tag_predictor import TagPredictor

_LOGGER = logging.getLogger(__name__)
Input = str | tuple[str, str]


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A text, or a pair of texts, that may be labelled.

    Attributes:
      text: text, or both texts of a pair.
      label: label that the pool has; empty if it has none.
    """

    text: Input
    label: str

    @property
    def texts(self) -> tuple[str, ...]:
        """The text or both texts."""
        return (self.text,) if isinstance(self.text, str) else self.text


@dataclasses.dataclass
class Pool:
    """The candidates of a table.

    Attributes:
      candidates: texts to choose from, in the order of the table.
      num_rows: number of rows.
      num_labelled: number of rows whose text is labelled already.
      num_repeated: number of rows whose text an earlier row has.
      num_unusable: number of rows without a usable text.
      num_new: number of texts without a label, of which the candidates may be a sample.
    """

    candidates: list[Candidate] = dataclasses.field(default_factory=list)
    num_rows: int = 0
    num_labelled: int = 0
    num_repeated: int = 0
    num_unusable: int = 0
    num_new: int = 0


@dataclasses.dataclass(frozen=True)
class Columns:
    """Columns of the table that is written: those of the training table, then the score and the reason.

    Attributes:
      texts: columns of the text, or of both texts of a pair.
      label: column of the label.
    """

    texts: tuple[str, ...]
    label: str

    @classmethod
    def of(cls, model: Any) -> Columns:
        """Return the columns of the table that a model was trained on; a tagger, which reads CoNLL, has its own."""
        table = model.data.table
        if isinstance(model.predictor, TagPredictor):
            return cls(('text',), 'label')
        return cls(tuple(name for _, name in table.text_columns), table.label_column)

    @property
    def names(self) -> list[str]:
        """All columns in order."""
        own = [*self.texts, self.label]
        return [*own, *(f'selection_{name}' if name in own else name for name in ('score', 'reason'))]

    def rows(self, source: str, layout: Layout, flag: str) -> Iterator[Row | UserError]:
        """Yield the rows of files, where a table that this program wrote is read as it was written.

        Args:
          source: see `predictions.read_rows`.
          layout: layout of all other files.
          flag: flag that names the files, for messages.
        """
        for file in glob_files(source, flag, layout.encoding):
            first = next(iter(file.lines()), (0, ''))[1] if file.suffix == '.csv' else ''
            is_own = set(self.names) <= set(next(csv.reader([first]), []))
            yield from rows_of_file(file, Layout() if is_own else layout, flag)


def read(
    model: Any,
    source: str,
    excluded: Sequence[Input],
    most: int | None = None,
    seed: int = 0,
    with_labels: bool = False,
) -> Pool:
    """Read the candidates of a table.

    Args:
      model: trained model.
      source: table, see `tables.read`, or a `.txt` file with a text per line.
      excluded: texts that are labelled already; blanks between words do not count.
      most: most candidates, a random sample of the texts (reservoir sampling, Vitter 1985); None keeps all.
      seed: seed of the sample.
      with_labels: whether to keep the labels that the table has.

    Raises:
      UserError: there is no such table, or no text is left.
    """
    pool, rng, labelled = Pool(), np.random.default_rng(seed), {_key(model, given) for given in excluded}
    seen, kept, problem, wanted = set[bytes](), list[tuple[int, Candidate]](), '', Columns.of(model)
    layout = getattr(model.data, 'layout', Layout())
    for row in tqdm(wanted.rows(source, layout, '--input'), 'reading', unit=' rows', leave=False):
        pool.num_rows += 1
        try:
            if isinstance(row, UserError):
                raise row
            candidate = Candidate(model.predictor.parse(model, row), _label(row, wanted.label) if with_labels else '')
        except UserError as error:
            pool.num_unusable += 1
            problem = problem or str(error)
            continue
        key = _key(model, candidate.text)
        if key in labelled or key in seen:
            pool.num_labelled += key in labelled
            pool.num_repeated += key not in labelled
            continue
        seen.add(key)
        pool.num_new += 1
        if most is None or len(kept) < most:
            kept.append((pool.num_new, candidate))
        elif (place := int(rng.integers(pool.num_new))) < most:
            kept[place] = (pool.num_new, candidate)
    if problem:
        _LOGGER.warning(f'{pool.num_unusable:,} of {pool.num_rows:,} rows are left out. The first of them: {problem}')
    if not kept:
        raise UserError(
            f'--input={source}: no text is left to label: of {pool.num_rows:,} rows, {pool.num_labelled:,} are '
            f'labelled already, {pool.num_repeated:,} repeat another and {pool.num_unusable:,} cannot be used.'
        )
    pool.candidates = [candidate for _, candidate in sorted(kept, key=lambda item: item[0])]
    return pool


def own_texts(model: Any, split: Split) -> list[Input]:
    """Return the texts of a part of the data of a run; none, with a warning, if its tables have moved."""
    try:
        found = [model.data.texts(example) for example in model.data.examples(split)]
    except UserError as error:
        _LOGGER.warning(
            f'The {split} part of the run cannot be read, so its texts are not left out of the pool; name them with '
            f'--exclude. {error}'
        )
        return []
    return [texts[0] if len(texts) == 1 else texts for texts in found]


def listed_texts(model: Any, sources: Sequence[str]) -> list[Input]:
    """Return the texts of the tables that `--exclude` names.

    Raises:
      UserError: a row of them has no text.
    """
    found = []
    for source in sources:
        for row in Columns.of(model).rows(source, getattr(model.data, 'layout', Layout()), '--exclude'):
            if isinstance(row, UserError):
                raise row
            found.append(model.predictor.parse(model, row))
    return found


def csv_text(rows: Sequence[Sequence[str]]) -> str:
    """Return rows as CSV."""
    file = io.StringIO(newline='')
    csv.writer(file, lineterminator='\r\n').writerows(rows)  # so that carriage returns inside texts are quoted, too
    return file.getvalue()


def _label(row: Row, column: str) -> str:
    return '' if row.is_line else columns.as_text(row.values.get(column))


def _key(model: Any, given: Input) -> bytes:
    """Return what equal texts have in common: their words."""
    texts: tuple[str, ...] = (given,) if isinstance(given, str) else given
    if isinstance(model.predictor, TagPredictor):  # whose tables have words
        texts = tuple(' '.join(word.group() for word in model.data.words(text)) for text in texts)
    return hashlib.blake2b('\0'.join(' '.join(text.split()) for text in texts).encode(), digest_size=16).digest()
