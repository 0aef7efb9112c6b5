"""Sentences with a tag a word as batches: named entities and everything else that BIO tags say."""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np

from palm_jax.data.readers import conll
from palm_jax.data.readers.conll import Sentence
from palm_jax.data.readers.splits import is_held_out
from palm_jax.data.supervised.examples import (
    Batch,
    check_lengths,
    class_weights,
    token_features,
    warn_truncated,
)
from palm_jax.data.supervised.in_memory import InMemoryData
from palm_jax.errors import UserError

_WORD = r"[@#]?\w+(?:['’./:@&-]\w+)*|[^\w\s]"


@dataclasses.dataclass(frozen=True)
class TaggedTable:
    """Files of sentences in CoNLL's columns.

    Attributes:
      train_files: a path or glob, see `conll.read`.
      validation_files: the held-out part; None holds out one sentence in `held_out`, by the hash of its words.
      tag_column, word_pattern: see `conll.read`.
      held_out: see `validation_files`.
      names: of the tags, in the order of the head's scores; None: O, then B and I of every type in
        either part, so that a type which training never shows is a mistake of the model, not of the run.
      bad_rows: file for sentences that cannot be used, see `BadRows`; None: the first of them is an error.
    """

    train_files: str | None
    validation_files: str | None = None
    tag_column: int = -1
    word_pattern: str | None = None
    held_out: int = 10
    names: tuple[str, ...] | list[str] | None = None
    bad_rows: str | None = None

    def examples(self, split: Literal['train', 'validation']) -> list[Sentence]:
        """The sentences of a split."""
        if self.train_files is None:
            raise UserError('Name a file with a word and its tag a line: --gin.TRAIN_FILES=train.conll')
        if self.validation_files is not None:
            given = self.train_files if split == 'train' else self.validation_files
            return self._read(given, 'TRAIN_FILES' if split == 'train' else 'VALIDATION_FILES')
        sentences = self._read(self.train_files, 'TRAIN_FILES')
        chosen = [s for s in sentences if is_held_out(' '.join(s.words), self.held_out) == (split == 'validation')]
        if not chosen:
            raise UserError(
                f'TRAIN_FILES = {self.train_files!r} has {len(sentences)} sentences, too few to hold a part out. '
                'Name one with --gin.VALIDATION_FILES=...'
            )
        return chosen

    @functools.cached_property
    def labels(self) -> tuple[str, ...]:
        """The tags."""
        if self.names is not None:
            return tuple(self.names)
        tags = {tag for split in ('train', 'validation') for s in self.examples(split) for tag in s.tags} - {'O'}
        if not tags:
            raise UserError(f'{self.train_files}: every tag is O; there is nothing to find.')
        prefixes = {'B', 'I'} | {tag[0] for tag in tags}
        types = sorted({tag[2:] for tag in tags})
        return ('O', *(f'{prefix}-{name}' for name in types for prefix in sorted(prefixes)))

    def _read(self, pattern: str, binding: str) -> list[Sentence]:
        return list(conll.read(pattern, binding, self.tag_column, self.word_pattern, self.bad_rows))


def num_outputs(table: TaggedTable) -> int:
    """What a head needs for a table's tags."""
    return len(table.labels)


class TaggedText(InMemoryData):
    """Tagged sentences as batches: `0 word word ...`, a tag at every word's last token.

    A causal model has read the whole word there, so that is where a word is scored; other tokens
    have weight 0. Words that do not fit are cut, counted, and taken for O in the report.

    Args:
      table: where the sentences are.
      lengths: {'inputs': L}.
      vocabulary: `bytes` or the path of a SentencePiece model: the base's.
      separator: stands between words: a blank, or nothing where words are characters.
      bidirectional: a sentence's tokens see each other both ways, not only backwards.
      class_weights: of the tags, as of `LabelledText`.
      group_by_length: examples of like length stand together in groups of so many, see `LengthGroups`.
      seed: of the shuffling.
    """

    labels_along_text = True

    def __init__(
        self,
        table: TaggedTable,
        lengths: Mapping[str, int],
        vocabulary: str,
        separator: str = ' ',
        bidirectional: bool = True,
        class_weights: Literal['balanced'] | Mapping[str, float] | None = None,
        group_by_length: int | None = None,
        seed: int = 0,
    ):
        super().__init__(vocabulary, seed, group_by_length)
        self.table, self.length, self.separator = table, check_lengths(lengths), separator
        self._bidirectional, self._class_weights = bidirectional, class_weights

    @property
    def labels(self) -> tuple[str, ...]:
        """The tags in the order of the head's scores."""
        return self.table.labels

    @functools.cached_property
    def validation_examples(self) -> list[Sentence]:
        """What `validation` goes through."""
        return self.table.examples('validation')

    def example(self) -> str:
        """The first training sentence, a token a line, with its tag where it counts."""
        row = self.first()
        lines = ['position  token, its tag where the loss counts it']
        for i in np.flatnonzero(row['decoder_segment_ids']):
            token = row['decoder_input_tokens'][i]
            tag = self.labels[row['labels'][i]] if row['label_weights'][i] else '·'
            lines.append(f'{i:>8}  {token:>6} {self.vocabulary.decode([int(token)])!r:<18} {tag}')
        return '\n'.join(lines)

    def inputs(self, sentences: Sequence[Sequence[str]]) -> tuple[Batch, list[list[int]]]:
        """Features [E, L] of sentences of words, and where each word's last token stands, as far as they fit."""
        rows, ends = [], []
        for words in sentences:
            ids, places = [0], []
            for i, word in enumerate(words):
                pieces = self.vocabulary.encode(word if i == 0 else self.separator + word)
                if len(ids) + len(pieces) > self.length:
                    break
                ids += pieces
                places.append(len(ids) - 1)
            rows.append(ids)
            ends.append(places)
        return token_features(rows, self.length, self._bidirectional), ends

    def words(self, text: str) -> list[re.Match]:
        """The words of a text, punctuation apart; its characters where words are characters."""
        return list(re.finditer(_WORD if self.separator else r'\S', text))

    def encode(self, split: str) -> Batch:
        """Tokens, and the tags at the words' ends."""
        sentences, ids = self.table.examples(split), {name: i for i, name in enumerate(self.labels)}
        features, ends = self.inputs([s.words for s in sentences])
        num_cut = sum(len(places) < len(s.words) for places, s in zip(ends, sentences, strict=True))
        warn_truncated(num_cut, len(sentences), f'{split} sentences', self.length)
        labels = np.zeros((len(sentences), self.length), np.int32)
        weights = np.zeros(labels.shape, np.float32)
        by_tag = np.ones(len(self.labels), np.float32)
        if split == 'train' and self._class_weights is not None:
            by_tag = class_weights(self._class_weights, self.labels, [tag for s in sentences for tag in s.tags])
        for row, (places, sentence) in enumerate(zip(ends, sentences, strict=True)):
            labels[row, places] = [self._id(ids, tag, sentence) for tag in sentence.tags[: len(places)]]
            weights[row, places] = by_tag[labels[row, places]]
        return features | {'labels': labels, 'label_weights': weights}

    @staticmethod
    def _id(ids: Mapping[str, int], tag: str, sentence: Sentence) -> int:
        if tag not in ids:
            raise UserError(f'{sentence.location}: the tag {tag!r} is not one of {", ".join(ids)}.')
        return ids[tag]
