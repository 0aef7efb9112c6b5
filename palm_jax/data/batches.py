"""Batches as a function of the seed and the step.

Documents are concatenated, each with its end mark, and the stream is split into sequences
of equal length, as PaLM's were (paper, section 5). Sequences are shuffled anew every epoch;
number i of the shuffled order is computed from the seed and i alone, so a run resumes at any
step at once, on any number of hosts.
"""

from __future__ import annotations

import functools
import itertools
import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import grain
import numpy as np

from palm_jax.data import stdlib, token_cache, vocabularies, yardsticks
from palm_jax.data.paths import cache_dir
from palm_jax.data.text_files import TextFiles
from palm_jax.data.token_cache import TokenCache
from palm_jax.data.vocabularies import EOS_ID, Vocabulary
from palm_jax.errors import UserError

Batch = dict[str, np.ndarray]
_OWN_FILES = 'text_files'
_SHOWN_TOKENS, _SHOWN_CHARACTERS = 48, 400


class _Sequences:
    """Random access to the stream cut into `length` tokens: grain's data source."""

    def __init__(self, cache: TokenCache, length: int, keep_rest: bool):
        self._tokens, self._length = cache.tokens, length
        whole, rest = divmod(len(cache.tokens), length)
        self._count = whole + bool(rest and keep_rest)

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> np.ndarray:
        return np.asarray(self._tokens[index * self._length : (index + 1) * self._length], np.int32)


class LanguageModelData:
    """A seqio task or mixture as batches for causal language modelling.

    Args:
      task: name of a registered task or mixture.
      lengths: {'targets': L}.
      vocabulary: `bytes`, `sentencepiece` (fitted to the task's own text on first use and
        kept) or the path of a SentencePiece model.
      vocabulary_size: ids of a fitted vocabulary.
      train_files, validation_files: own text instead of `task`; see `TextFiles`.
      isolate_documents: attention and positions do not cross documents. PaLM's did.
      seed: of the shuffling.
    """

    labels: tuple[str, ...] = ()  # there is no head

    def __init__(
        self,
        task: str,
        lengths: Mapping[str, int],
        vocabulary: str = 'sentencepiece',
        vocabulary_size: int = 32_000,
        train_files: str | None = None,
        validation_files: str | None = None,
        isolate_documents: bool = False,
        seed: int = 0,
    ):
        if 'targets' not in lengths or lengths['targets'] < 2:
            raise UserError(f"TASK_FEATURE_LENGTHS is {dict(lengths)}; it needs 'targets' of at least 2 tokens.")
        if validation_files is not None and train_files is None:
            raise UserError('VALIDATION_FILES is set and TRAIN_FILES is not.')
        self.length = lengths['targets']
        self.task = task if train_files is None else _OWN_FILES
        self._files = None if train_files is None else TextFiles(train_files, validation_files)
        self._vocabulary_name, self._vocabulary_size = vocabulary, vocabulary_size
        self._isolate_documents, self._seed = isolate_documents, seed

    # What the model and the samplers need to know.

    @functools.cached_property
    def vocabulary(self) -> Vocabulary:
        """The run's vocabulary, fitted first where it does not exist yet."""
        if self._vocabulary_name == 'bytes':
            return vocabularies.Bytes()
        path = self.vocabulary_path
        if not path.is_file() and self._vocabulary_name == 'sentencepiece':
            vocabularies.fit(self.texts(), self._vocabulary_size, path)
        return vocabularies.SentencePiece(str(path))

    @property
    def vocabulary_path(self) -> Path | None:
        """Where the vocabulary's file is or will be; None for bytes."""
        if self._vocabulary_name == 'bytes':
            return None
        if self._vocabulary_name == 'sentencepiece':
            name = f'{self.task}_{self._identity}_{self._vocabulary_size}.model'
            return cache_dir() / 'vocabularies' / name
        return Path(self._vocabulary_name).expanduser()

    @property
    def is_ready(self) -> bool:
        """Whether the vocabulary exists; the first run makes it."""
        return self.vocabulary_path is None or self.vocabulary_path.is_file()

    def example(self) -> str:
        """The beginning of the first training sequence, token by token, with what the loss counts."""
        if not self.is_ready:
            text = next(iter(self.texts()))[:_SHOWN_CHARACTERS]
            return (
                f'The vocabulary {self.vocabulary_path} does not exist yet; the first run makes it. '
                f'The text begins:\n{text}'
            )
        batch = self.batch(0, 1)
        names = ('input_tokens', 'target_tokens', 'loss_weights')
        inputs, targets, weights = (batch[f'decoder_{name}'][0] for name in names)
        rows = ['position  input → target, ✓ where the loss counts it']
        for i in range(min(_SHOWN_TOKENS, len(targets))):
            source, target = (repr(self.vocabulary.decode([int(t)])) for t in (inputs[i], targets[i]))
            mark = '✓' if weights[i] else '·'
            rows.append(f'{i:>8}  {inputs[i]:>6} {source:<18} → {targets[i]:>6} {target:<18} {mark}')
        rows.append(f'... {len(targets) - _SHOWN_TOKENS} more')
        return '\n'.join(rows)

    # Training.

    def batch(self, first: int, size: int) -> Batch:
        """Sequences first, first + 1, ... of the shuffled, endless order: features [size, L]."""
        order = self._order
        return self._features(np.stack([order[i] for i in range(first, first + size)]))

    @property
    def num_sequences(self) -> int:
        """Sequences in one epoch."""
        return sum(len(_Sequences(cache, self.length, False)) for cache, _ in self._parts('train'))

    @functools.cached_property
    def _order(self) -> grain.MapDataset:
        datasets, weights = [], []
        for index, (cache, weight) in enumerate(self._parts('train')):
            sequences = _Sequences(cache, self.length, keep_rest=False)
            if not len(sequences):
                raise UserError(
                    f'Task {self.task!r} has {len(cache.tokens)} training tokens, less than one sequence of '
                    f"{self.length}. Give more text or lower TASK_FEATURE_LENGTHS = {{'targets': {self.length}}}."
                )
            datasets.append(grain.MapDataset.source(sequences).shuffle(seed=self._seed + index).repeat())
            weights.append(weight)
        return datasets[0] if len(datasets) == 1 else grain.MapDataset.mix(datasets, weights)

    # Validation.

    def validation(self, size: int) -> Iterator[Batch]:
        """The whole held-out part, every token once, the last batch padded with weight 0.

        Sequences come in a fixed shuffled order, so that the first batches stand for all.
        """
        for cache, _ in self._parts('validation'):
            sequences = _Sequences(cache, self.length, keep_rest=True)
            order = np.random.default_rng(0).permutation(len(sequences))
            for first in range(0, len(sequences), size):
                rows = np.zeros((size, self.length), np.int32)
                for row, index in enumerate(order[first : first + size]):
                    tokens = sequences[index]
                    rows[row, : len(tokens)] = tokens
                yield self._features(rows)

    @property
    def validation_bytes(self) -> int:
        """UTF-8 bytes of the held-out text: the divisor of bits per byte."""
        return sum(cache.num_bytes for cache, _ in self._parts('validation'))

    def yardsticks(self, sequences_seen: int) -> dict[str, float]:
        """Bits per byte that `gzip -9` and an order-3 n-gram of the text seen reach on the held-out text."""
        seen = range(min(sequences_seen, self.num_sequences))
        train = ''.join(self.vocabulary.decode(self._order[i]) for i in seen).encode()
        held_out = [
            self.vocabulary.decode(cache.tokens[a:b]).encode()
            for cache, _ in self._parts('validation')
            for a, b in zip(cache.offsets, cache.offsets[1:], strict=False)
        ]
        return {
            'gzip -9': yardsticks.gzip_bits_per_byte(held_out),
            'order-3 byte n-gram': yardsticks.ngram_bits_per_byte(train, held_out, order=3),
        }

    def _features(self, targets_BL: np.ndarray) -> Batch:
        """seqio's names: inputs are the targets shifted right behind a 0."""
        weights_BL = (targets_BL != vocabularies.PAD_ID).astype(np.int32)
        features = {
            'decoder_target_tokens': targets_BL,
            'decoder_input_tokens': np.pad(targets_BL, [(0, 0), (1, 0)])[:, :-1],
            'decoder_loss_weights': weights_BL,
        }
        if self._isolate_documents:
            features |= _documents(targets_BL)
            features['decoder_input_tokens'] *= features['decoder_positions'] > 0  # every document starts behind a 0
        return features

    # From the registry to the cache.

    @functools.cached_property
    def _identity(self) -> str:
        if self._files is not None:
            return self._files.identity()
        return stdlib.identity() if self.task == 'python_stdlib' else 'v1'

    def texts(self) -> Iterator[str]:
        """The training text, a document at a time."""
        tasks = self._registry()
        return itertools.chain.from_iterable(map(tasks.texts, tasks.parts(self._registered_name)))

    def _registry(self):
        """`palm_jax.data.tasks`, imported only when tokens have to be made: it brings TensorFlow."""
        if 'palm_jax.data.tasks' not in sys.modules:
            os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')  # it reports missing GPUs, which it is not to use
            print('reading the task with seqio (loading TensorFlow takes some seconds) ...', flush=True)
        from palm_jax.data import tasks

        if self._files is not None:
            tasks.add_text_files(self._registered_name, self._files)
        return tasks

    @property
    def _registered_name(self) -> str:
        return self.task if self._files is None else f'{_OWN_FILES}_{self._identity}'

    @functools.cache  # noqa: B019 - one data object lives as long as the run
    def _parts(self, split: str) -> list[tuple[TokenCache, float]]:
        """The caches of a task's or mixture's parts, made where missing, and their shares."""
        root = cache_dir() / 'tokens' / f'{self.task}_{self._identity}_{self.vocabulary.fingerprint}'
        known = root / f'{split}.parts'
        if known.is_file():
            shares = dict(line.rsplit('\t', 1) for line in known.read_text().splitlines())
            if all(token_cache.exists(root / split / name) for name in shares):
                return [(token_cache.open_cache(root / split / name), float(s)) for name, s in shares.items()]
        tasks = self._registry()
        shares = tasks.parts(self._registered_name)
        for part in shares:
            if not token_cache.exists(root / split / part):
                examples = tasks.token_examples(part, split, self.vocabulary)
                token_cache.build(examples, root / split / part, self.vocabulary.size, f'tokens of {part} {split}')
        known.write_text('\n'.join(f'{part}\t{share}' for part, share in shares.items()))
        return [(token_cache.open_cache(root / split / part), share) for part, share in shares.items()]


def _documents(targets_BL: np.ndarray) -> Batch:
    """Segment ids and positions of the documents in each row; an end mark belongs to its document."""
    starts_BL = np.pad(targets_BL == EOS_ID, [(0, 0), (1, 0)], constant_values=True)[:, :-1]
    columns_L = np.arange(targets_BL.shape[1])
    first_BL = np.maximum.accumulate(np.where(starts_BL, columns_L, 0), axis=1)
    segments_BL = np.cumsum(starts_BL, axis=1) * (targets_BL != vocabularies.PAD_ID)
    return {
        'decoder_segment_ids': segments_BL.astype(np.int32),
        'decoder_positions': (columns_L - first_BL).astype(np.int32),
    }
