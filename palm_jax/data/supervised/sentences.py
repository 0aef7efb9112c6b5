"""Batches of texts to be embedded: each alone, with a text of the same meaning, or also with one of another meaning."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping

import numpy as np

from palm_jax.bounds import Count, Seed
from palm_jax.characters import check_characters
from palm_jax.data.readers import columns, tables
from palm_jax.data.readers.row import Row
from palm_jax.data.readers.splits import Split
from palm_jax.data.supervised.examples import Batch, check_lengths, token_features, warn_truncated
from palm_jax.data.supervised.in_memory import InMemoryData
from palm_jax.data.supervised.sources import Table
from palm_jax.errors import UserError
from palm_jax.labels.number import Number
from palm_jax.special_ids import EOS_ID

ROLES = ('input', 'positive', 'negative')  # of the texts of a row, in the names of the features


@dataclasses.dataclass(frozen=True)
class Sentence:
    """A text and, where the table has them, its positive and its hard negative."""

    texts: tuple[str, ...]
    location: str

    def map_texts(self, change: Callable[[str], str]) -> Sentence:
        """Return the row with changed texts."""
        return dataclasses.replace(self, texts=tuple(map(change, self.texts)))


@dataclasses.dataclass(frozen=True)
class ScoredPair:
    """Two texts and how similar people found them."""

    text: str
    second_text: str
    score: float


@dataclasses.dataclass(frozen=True)
class SentenceTable(Table[Sentence]):
    """Tables of texts, with or without a text of the same meaning in every row.

    Attributes:
      validation_files: path or glob of the validation split; None holds out one row in `held_out`, chosen by the hash
        of its first text.
      text_column: name of the column with the text.
      positive_column: name of the column with a text of the same meaning; None has none.
      negative_column: name of the column with a text of another meaning, a hard negative; None has none.
      pairs_files: path or glob of pairs with scores for the evaluation, in the columns `text`, `second_text` and
        `score`; None has none.
    """

    text_column: str = 'text'
    positive_column: str | None = None
    negative_column: str | None = None
    pairs_files: str | None = None

    @property
    def wanted(self) -> tuple[tuple[str, str], ...]:
        """(macro, name) of the columns that the texts of a row are in."""
        if self.negative_column is not None and self.positive_column is None:
            raise UserError('NEGATIVE_COLUMN needs POSITIVE_COLUMN: name the column with the text of the same meaning.')
        names = (
            ('TEXT_COLUMN', self.text_column),
            ('POSITIVE_COLUMN', self.positive_column),
            ('NEGATIVE_COLUMN', self.negative_column),
        )
        return tuple((macro, name) for macro, name in names if name is not None)

    def parse(self, row: Row) -> Sentence:
        """Return the texts of a row."""
        return Sentence(tuple(columns.text(row, name, macro) for macro, name in self.wanted), row.location)

    def keys(self, example: Sentence) -> tuple[str, ...]:
        """Return the first text."""
        return example.texts[:1]

    @functools.cached_property
    def pairs(self) -> tuple[ScoredPair, ...]:
        """Pairs with scores; none without `pairs_files`."""
        if self.pairs_files is None:
            return ()
        wanted = (('PAIRS_FILES', 'text'), ('PAIRS_FILES', 'second_text'), ('PAIRS_FILES', 'score'))
        return tuple(map(_pair, tables.read(self.pairs_files, wanted, 'PAIRS_FILES')))


def _pair(row: Row) -> ScoredPair:
    text, second_text, score = (
        columns.text(row, 'text', None),
        columns.text(row, 'second_text', None),
        columns.number(row, 'score', None),
    )
    try:
        Number().check(score)
    except UserError as error:
        raise UserError(f'{row.location}: {error}'.replace('the label', 'the score')) from None
    return ScoredPair(text, second_text, float(score))


class Sentences(InMemoryData):
    """Rows of texts, each as tokens `0 text EOS`; texts that are too long are truncated at their end.

    Of a base without a start token the 0 is missing.

    The features of the first text are `decoder_input_tokens` and `decoder_segment_ids`; those of its positive and its
    negative are `decoder_positive_tokens`, `decoder_positive_segment_ids`, `decoder_negative_tokens`, ...

    Args:
      table: source of the texts.
      lengths: {'inputs': L}, tokens per text.
      vocabulary: `bytes` or the path of a SentencePiece model: the vocabulary of the base model.
      bidirectional: whether the tokens of a text attend to one another in both directions.
      seed: seed for shuffling.
    """

    against_padding = '--gin.TASK_FEATURE_LENGTHS="{\'inputs\': ...}" with a smaller number avoids some of it'

    def __init__(
        self,
        table: SentenceTable,
        lengths: Mapping[str, Count],
        vocabulary: str,
        bidirectional: bool = False,
        seed: Seed = 0,
    ):
        super().__init__(table, vocabulary, seed)
        self.length, self.bidirectional = check_lengths(lengths), bidirectional

    @property
    def table(self) -> SentenceTable:
        """Source of the texts."""
        return self._source

    def example(self) -> str:
        """Return the first training row, decoded."""
        batch, lines = self.first(), []
        for role in ROLES:
            if f'decoder_{role}_tokens' in batch:
                ids = [int(i) for i in batch[f'decoder_{role}_tokens'] if i]
                count = int(batch[f'decoder_{"" if role == ROLES[0] else f"{role}_"}segment_ids'].sum())
                lines.append(f'{role:<9} {self.vocabulary.decode(ids)!r}, {count} of {self.length} tokens')
        return '\n'.join(lines)

    def encode(self, split: Split) -> Batch:
        """Return the features of a split."""
        examples = self.examples(split)
        features: Batch = {'label_weights': np.ones(len(examples), np.float32)}
        num_truncated = 0
        for role, texts in zip(ROLES, zip(*(e.texts for e in examples), strict=True), strict=False):
            encoded = [self.tokens(text) for text in texts]
            num_truncated += sum(was_truncated for _, was_truncated in encoded)
            found = token_features([ids for ids, _ in encoded], self.length, bidirectional=False)
            own = '' if role == ROLES[0] else f'{role}_'
            features[f'decoder_{role}_tokens'] = found['decoder_input_tokens']
            features[f'decoder_{own}segment_ids'] = found['decoder_segment_ids']
        if self.bidirectional:
            features['decoder_causal_attention'] = features['decoder_segment_ids']
        self._num_truncated[split] = num_truncated
        warn_truncated(num_truncated, len(examples), f'{split} rows', self.length)
        return features

    def tokens(self, text: str) -> tuple[list[int], bool]:
        """Return the ids of a text, `0 text EOS`, and whether it was truncated."""
        ids, start = self.vocabulary.encode(check_characters(text, 'the text')), self.vocabulary.start_ids
        room = self.length - len(start) - 1
        return [*start, *ids[:room], EOS_ID], len(ids) > room
