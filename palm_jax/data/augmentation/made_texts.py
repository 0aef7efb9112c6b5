"""Texts that were made beforehand, by `palm-jax augment`, as further training examples."""

from __future__ import annotations

import collections
import dataclasses
import logging
from collections.abc import Mapping, Sequence
from typing import Any

from palm_jax.bounds import checked
from palm_jax.data.augmentation.augmented import Augmenter, check_texts, map_texts
from palm_jax.data.readers import columns, tables
from palm_jax.errors import UserError
from palm_jax.wording import counted

_LOGGER = logging.getLogger(__name__)
_COLUMNS = ('text', 'augmented', 'origin')
_Made = tuple[str, str]  # text and origin


@checked
@dataclasses.dataclass(frozen=True)
class MadeTexts(Augmenter):
    """Takes the texts that files have for a text; copy number i is the i-th of them.

    Texts of the files that are none of the training part are not used, so that the files may be of a whole table.

    Attributes:
      files: path or glob of what `palm-jax augment` wrote, or a table with the same columns `text`, `augmented` and
        `origin`.
      made: texts with their origin by the text that they were made of; `prepared` reads them.
    """

    files: str | None = None
    made: Mapping[str, tuple[_Made, ...]] | None = None

    name = 'texts made beforehand'

    def prepared(self, examples: Sequence[Any]) -> MadeTexts:
        """Return an augmenter that has read the files.

        Raises:
          UserError: no file is named, it is not of that form, or has nothing for the training part.
        """
        if self.files is None:
            raise UserError(
                'AUGMENTED_FILES is not set: name what palm-jax augment --input=... --output=made.jsonl writes.'
            )
        for example in examples[:1]:
            check_texts('A text made beforehand', example)
        found: dict[str, list[_Made]] = collections.defaultdict(list)
        for row in tables.read(self.files, (), 'AUGMENTED_FILES'):
            if missing := [name for name in _COLUMNS if name not in row.values]:
                raise UserError(
                    f'AUGMENTED_FILES = {self.files!r} is not a file of palm-jax augment: {row.location}: no column '
                    f'{missing[0]!r}. Columns: {", ".join(row.values)}.'
                )
            text, made, origin = (columns.text(row, name, 'AUGMENTED_FILES') for name in _COLUMNS)
            found[text].append((made, f'{origin} ({row.location})'))
        known = {text for example in examples for text in getattr(example, 'texts', ())}
        num_known = sum(text in known for text in found)
        if not num_known:
            raise UserError(
                f'AUGMENTED_FILES = {self.files!r}: none of its {counted(len(found), "text")} is in the training part. '
                'Was it made of this table and column (--input, --text_column)?'
            )
        _LOGGER.info(f'made texts for {num_known:,} of {counted(len(known), "training text")}: {self.files}')
        return dataclasses.replace(self, made={text: tuple(made) for text, made in found.items()})

    def augment(self, example, copy, rng):
        """Return the example with the texts that were made of its own."""
        del rng
        return map_texts(self.name, example, lambda text: self._of(text, copy)[0])

    def origin(self, example, copy):
        """Return what made the texts, and where they are in the files."""
        origins = (self._of(text, copy)[1] for text in example.texts)
        return ' and '.join(dict.fromkeys(filter(None, origins)))

    def _of(self, text: str, copy: int) -> _Made:
        made = (self.made or {}).get(text, ())
        return made[copy] if copy < len(made) else (text, '')
