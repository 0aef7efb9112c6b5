"""Taggers: a correction is a list with a tag for each word of the text, and a sentence is right if all entities are."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from palm_jax.data.readers import conll
from palm_jax.metrics import entities
from palm_jax.metrics.comparison import SENTENCES
from palm_jax.monitoring.request_log import Kept
from palm_jax.retuning.collect import Labelled
from palm_jax.retuning.forms import Form, original
from palm_jax.run_directory import write_whole


class Tags(Form):
    """Tags of words; the texts of a row are its words. Tables have a word and its tag in each line."""

    endpoints = ('/v1/tag',)
    suffix = '.conll'

    @property
    def highest_score(self) -> float:
        """See `Form`."""
        return 1.0

    @property
    def source(self) -> Any:
        """See `Form`."""
        return original(self.model.data.table)

    @property
    def bindings(self) -> dict[str, Any]:
        """See `Form`."""
        return super().bindings | {'TAG_COLUMN': -1, 'WORD_PATTERN': None}

    def row(self, example: Any) -> Labelled:
        """See `Form`."""
        return Labelled(tuple(example.words), list(example.tags), example.location)

    def of_request(self, kept: Kept) -> Labelled:
        """See `Form`; the words are those that the model itself has found in the text."""
        words = [match.group() for match in self.model.data.words(kept.input)] if isinstance(kept.input, str) else []
        return Labelled(tuple(words), kept.label, kept.id)

    def problem(self, row: Labelled) -> str | None:
        """See `Form`."""
        if not isinstance(row.label, list) or len(row.label) != len(row.texts):
            return 'without a tag for each word'
        known = self.model.data.labels
        return None if all(tag in known for tag in row.label) else 'a tag that the model does not have'

    def write(self, path: Path, rows: Sequence[Labelled]) -> None:
        """See `Form`."""
        sentences = (zip(row.texts, row.label, strict=True) for row in rows)
        write_whole(path, ''.join(''.join(f'{w}\t{tag}\n' for w, tag in sentence) + '\n' for sentence in sentences))

    def read(self, path: Path) -> list[Labelled]:
        """See `Form`."""
        return [self.row(sentence) for sentence in conll.read.__wrapped__(str(path), 'the table')]

    def scores(self, model: Any, rows: Sequence[Labelled], batch_size: int) -> tuple[np.ndarray, str]:
        """See `Form`; entities are compared by the numbers of their words."""
        predicted = model.predict([list(row.texts) for row in rows], batch_size=batch_size)
        right = []
        for row, found in zip(rows, predicted, strict=True):
            ends = np.cumsum([len(word) + len(model.data.separator) for word in row.texts])
            places = [np.searchsorted(ends, [entity['start'], entity['end'] - 1], 'right') for entity in found]
            spans = [(e['type'], int(i), int(j) + 1) for e, (i, j) in zip(found, places, strict=True)]
            right.append(spans == [tuple(entity) for entity in entities.decode(row.label)])
        return np.array(right, float), SENTENCES
