"""Batches of sentences with a tag per word: named entities and whatever else BIO tags mark."""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Literal

import numpy as np

from palm_jax.bounds import Count, MayBeEmpty, RegularExpression, Seed, Weight
from palm_jax.characters import check_characters
from palm_jax.data.readers import conll
from palm_jax.data.readers.conll import Sentence
from palm_jax.data.readers.splits import Split
from palm_jax.data.supervised.examples import (
    Batch,
    check_lengths,
    class_weights,
    token_features,
    warn_truncated,
)
from palm_jax.data.supervised.in_memory import InMemoryData
from palm_jax.data.supervised.sources import ExampleFiles
from palm_jax.errors import UserError, closest
from palm_jax.metrics import entities, text_baselines
from palm_jax.metrics.text_baselines import Baseline
from palm_jax.special_ids import UNK_ID

_WORD = r"[@#]?\w+(?:['’./:@&-]\w+)*|[^\w\s]"


@dataclasses.dataclass(frozen=True)
class TaggedTable(ExampleFiles[Sentence]):
    """Files of sentences in the columns of CoNLL.

    Attributes:
      train_files: path or glob, see `conll.read`.
      validation_files: path or glob of the validation split; None holds out one sentence in `held_out`, chosen by the
        hash of its words, so that equal sentences stay together, and so that no tag is held out completely.
      tag_column: index of the column with the tag, see `conll.read`.
      word_pattern: regular expression whose first group is the word, see `conll.read`; None takes the whole column.
      names: tags in the order of the head's outputs; None takes O, then B and I of every type in either split, so that
        a type that only the validation split has counts as an error of the model instead of stopping the run.
      bad_rows: file that collects unusable sentences, see `BadRows`; None makes the first of them an error.
    """

    tag_column: int = -1
    word_pattern: Annotated[str, RegularExpression(num_groups=1)] | None = None
    names: tuple[str, ...] | list[str] | None = None

    noun = 'sentences'

    def read(self, pattern: str, binding: str) -> tuple[Sentence, ...]:
        """Return the sentences of a path or glob."""
        options = (self.tag_column, self.word_pattern, self.bad_rows, self.layout.encoding)
        return conll.read(pattern, binding, *options)

    def keys(self, example: Sentence) -> tuple[str]:
        """Return the words, joined."""
        return (' '.join(example.words),)

    def classes(self, example: Sentence) -> tuple[str, ...]:
        """Return the tags."""
        return example.tags

    def further(self, files: str, binding: str) -> list[Sentence]:
        """Return the sentences of further files; see `ExampleFiles.further`."""
        sentences = super().further(files, binding)
        for sentence in sentences:
            for word, tag in zip(sentence.words, sentence.tags, strict=True):
                if tag not in self.labels:
                    raise UserError(
                        f'{sentence.location}: the tag {tag!r} of {word!r} never occurs in training.'
                        f'{closest(tag, self.labels)} Known: {", ".join(self.labels)}.'
                    )
        return sentences

    def reading(self, files: str, labels: Sequence[str] = (), predicted: bool = False) -> TaggedTable:
        """Return the same table of other training files, with these labels; see `InMemoryData.of_files`."""
        return dataclasses.replace(super().reading(files, predicted=predicted), names=tuple(labels) or None)

    @functools.cached_property
    def labels(self) -> tuple[str, ...]:
        """Tags in the order of the head's outputs."""
        if self.names is not None:
            return tuple(map(conll.normal_tag, self.names))
        tags = {tag for split in ('train', 'validation') for s in self.examples(split) for tag in s.tags} - {'O'}
        if not tags:
            raise UserError(f'{self.train_files}: every tag is O; a tagger needs at least one entity.')
        prefixes = {'B', 'I'} | {tag[0] for tag in tags}
        types = sorted({tag[2:] for tag in tags})
        return ('O', *(f'{prefix}-{name}' for name in types for prefix in sorted(prefixes)))


def num_outputs(table: TaggedTable) -> int:
    """Return the number of outputs that a head needs for a table's tags."""
    return len(table.labels)


class TaggedText(InMemoryData):
    """Tagged sentences as rows of `0 word word ...`, with a tag at the last token of each word.

    There a causal model has read the whole word; all other tokens have weight 0. A word without tokens is read as UNK.
    Words beyond L tokens are dropped,
    counted, and taken for O in the report.

    Args:
      table: source of the sentences.
      lengths: {'inputs': L}, tokens per row.
      vocabulary: `bytes` or the path of a SentencePiece model: the vocabulary of the base model.
      separator: text between words: a space, or nothing if words are characters.
      bidirectional: whether the tokens of a sentence attend to one another in both directions.
      class_weights: weights of the tags in training, see `LabelledText`.
      group_by_length: size of the groups of examples of similar length, see `LengthGroups`, or the ramp of BATCH_SIZE;
        None does not group.
      seed: seed for shuffling.
    """

    labels_along_text = True
    noun = 'sentence'

    def __init__(
        self,
        table: TaggedTable,
        lengths: Mapping[str, Count],
        vocabulary: str,
        separator: Annotated[str, MayBeEmpty()] = ' ',
        bidirectional: bool = True,
        class_weights: Literal['balanced'] | Mapping[str, Weight] | None = None,
        group_by_length: Count | tuple[tuple[int, int], ...] | None = None,
        seed: Seed = 0,
    ):
        super().__init__(table, vocabulary, seed, group_by_length)
        self.length, self.separator = check_lengths(lengths), separator
        self.bidirectional, self._class_weights = bidirectional, class_weights

    @property
    def table(self) -> TaggedTable:
        """Source of the sentences."""
        return self._source

    @property
    def labels(self) -> tuple[str, ...]:
        """Tags in the order of the head's outputs."""
        return self.table.labels

    def describe_label(self, encoded: np.ndarray) -> str:
        """Return the tags of the words of a sentence, int32 [W], as text."""
        return ' '.join(self.labels[tag] for tag in encoded)

    @property
    def word_pattern(self) -> str:
        """Regular expression of the words of a text that is not split into words yet."""
        return _WORD if self.separator else r'\S'

    def texts(self, example: Sentence) -> tuple[str]:
        """Return the sentence."""
        return (self.separator.join(example.words),)

    def classes(self, example: Sentence) -> list[str]:
        """Return the types of the entities of a sentence."""
        return [entity.type for entity in entities.decode(example.tags)]

    @functools.cached_property
    def baselines(self) -> list[Baseline]:
        """What counting reaches on the held-out part."""
        return text_baselines.of_tags(self.examples('train'), self.validation_examples)

    def example(self) -> str:
        """Return the first training sentence, a token per line, with the tags that the loss counts."""
        row = self.first()
        lines = ['position  token, its tag if the loss counts it']
        for i in np.flatnonzero(row['decoder_segment_ids']):
            token = row['decoder_input_tokens'][i]
            tag = self.labels[row['labels'][i]] if row['label_weights'][i] else '·'
            lines.append(f'{i:>8}  {token:>6} {self.vocabulary.decode([int(token)])!r:<18} {tag}')
        return '\n'.join(lines)

    def inputs(self, sentences: Sequence[Sequence[str]]) -> tuple[Batch, list[list[int]]]:
        """Return features [E, L] of sentences of words, and the position of the last token of each word that fits."""
        rows, ends = [], []
        for words in sentences:
            ids, positions = [*self.vocabulary.start_ids], []
            for i, word in enumerate(words):
                check_characters(word, f'word {i + 1}')
                # A vocabulary may have nothing for a blank or an invisible character, but a tag needs a position.
                pieces = self.vocabulary.encode(word if i == 0 else self.separator + word) or [UNK_ID]
                if len(ids) + len(pieces) > self.length:
                    break
                ids += pieces
                positions.append(len(ids) - 1)
            rows.append(ids)
            ends.append(positions)
        return token_features(rows, self.length, self.bidirectional), ends

    def words(self, text: str) -> list[re.Match]:
        """Return the words of a text, punctuation apart; its characters if words are characters."""
        return list(re.finditer(self.word_pattern, text))

    def encode(self, split: Split) -> Batch:
        """Return the features of a split: tokens, segment ids, and tags with weights at the ends of words."""
        sentences, ids = self.examples(split), {name: i for i, name in enumerate(self.labels)}
        features, ends = self.inputs([s.words for s in sentences])
        num_truncated = sum(len(positions) < len(s.words) for positions, s in zip(ends, sentences, strict=True))
        self._num_truncated[split] = num_truncated
        warn_truncated(num_truncated, len(sentences), f'{split} sentences', self.length)
        labels = np.zeros((len(sentences), self.length), np.int32)
        weights = np.zeros(labels.shape, np.float32)
        by_tag = np.ones(len(self.labels), np.float32)
        if split == 'train' and self._class_weights is not None:
            by_tag = class_weights(self._class_weights, self.labels, [tag for s in sentences for tag in s.tags])
        for row, (positions, sentence) in enumerate(zip(ends, sentences, strict=True)):
            labels[row, positions] = [self._id(ids, tag, sentence) for tag in sentence.tags[: len(positions)]]
            weights[row, positions] = by_tag[labels[row, positions]]
        features |= {'labels': labels, 'label_weights': weights}
        for source in self._further if split == 'train' else ():
            features |= source.features(sentences, self.table)
        return features

    @staticmethod
    def _id(ids: Mapping[str, int], tag: str, sentence: Sentence) -> int:
        if tag not in ids:
            raise UserError(f'{sentence.location}: the tag {tag!r} is not one of {", ".join(ids)}.')
        return ids[tag]
