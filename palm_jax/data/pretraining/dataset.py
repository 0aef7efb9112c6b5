"""Pretraining batches as a function of the seed and the step.

Documents are concatenated, each with EOS, and the stream is split into sequences of equal length, as for
PaLM (paper, section 5). Sequences are reshuffled every epoch, and an objective turns each into inputs and
targets. Sequence number i of the shuffled order, including its random choices, depends on the seed and i
alone, so a run resumes at any step at once, on any number of hosts.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import itertools
import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import grain
import numpy as np

from palm_jax.bounds import Count, Seed, checked
from palm_jax.data.pretraining.corpus import Corpus
from palm_jax.data.pretraining.objectives import CausalLM, Objective, blank
from palm_jax.data.pretraining.objectives.sequences import Features
from palm_jax.data.pretraining.token_cache import TokenCache
from palm_jax.data.readers.delimited import Layout
from palm_jax.data.readers.splits import SPLITS
from palm_jax.data.supervised import overview
from palm_jax.data.vocabulary.special_tokens import ExtendedVocabulary
from palm_jax.data.vocabulary.vocabularies import Bytes
from palm_jax.errors import UserError
from palm_jax.metrics import baselines
from palm_jax.run_directory import RunDirectory
from palm_jax.wording import counted

Batch = dict[str, np.ndarray]
_LOGGER = logging.getLogger(__name__)
_SHOWN_TOKENS, _SHOWN_CHARACTERS = 48, 400
_SAMPLED_DOCUMENTS, _PROMPT_TOKENS = 50, 24


@dataclasses.dataclass(frozen=True)
class _Sequences:
    """The stream as sequences of `length` tokens with random access, a data source for grain."""

    cache: TokenCache
    length: int
    keep_rest: bool

    def __len__(self) -> int:
        whole, rest = divmod(self.cache.num_tokens, self.length)
        return whole + bool(rest and self.keep_rest)

    def __getitem__(self, index: int) -> np.ndarray:
        start = index * self.length
        return self.cache.read(start, min(start + self.length, self.cache.num_tokens))


@checked
class LanguageModelData:
    """Batches of a corpus for self-supervised training.

    Args:
      corpus: text and vocabulary.
      lengths: {'targets': L}.
      objective: one or more objectives, mixed by their `share`.
      seed: seed for shuffling and for the random choices of the objective.
    """

    group: int | None = None  # batches of similar length: none, all sequences have the same length

    def __init__(
        self,
        corpus: Corpus,
        lengths: Mapping[str, Count],
        objective: Sequence[Objective] = (CausalLM(),),
        seed: Seed = 0,
    ):
        if 'targets' not in lengths or lengths['targets'] < 2:
            raise UserError(f"TASK_FEATURE_LENGTHS is {dict(lengths)}; it needs 'targets' of at least 2 tokens.")
        if not objective:
            raise UserError('OBJECTIVE is empty; include a file of gin/objectives.')
        self.corpus, self.length, self.objective = corpus, lengths['targets'], tuple(objective)
        self._seed = seed
        total = sum(o.share for o in self.objective)
        self._shares = [o.share / total for o in self.objective]

    @property
    def train_files(self) -> list[str]:
        """What is trained on: names of files, folders and registered tasks."""
        return self.corpus.names

    def of_names(self, names: Sequence[str]) -> LanguageModelData:
        """Return the same kind of data from other text, in the vocabulary of this one; see `Corpus.of_names`."""
        return LanguageModelData(self.corpus.of_names(names), {'targets': self.length}, self.objective, self._seed)

    @property
    def text_column(self) -> str:
        """Column of tables that holds the text."""
        return self.corpus.text_column

    @property
    def layout(self) -> Layout:
        """Layout of tables."""
        return self.corpus.layout

    @property
    def vocabulary(self) -> ExtendedVocabulary:
        """Vocabulary of the corpus."""
        return self.corpus.vocabulary

    def prepare(self, run: RunDirectory) -> None:
        """Prepare the training of a run; see `Corpus.prepare`."""
        self.corpus.prepare(run)

    @property
    def labels(self) -> tuple[str, ...]:
        """Class names of the objective's head; empty if it has none."""
        return self.objective[0].labels

    def describe_label(self, encoded: np.ndarray) -> str:
        """Return the class of a sequence, int32 [], as text."""
        return self.labels[int(encoded)]

    @property
    def is_ready(self) -> bool:
        """Whether the vocabulary exists; the first run trains it."""
        return self.corpus.is_ready

    def blank(self) -> Features:
        """Return a sequence without content: names, shapes and types of the features, known before text is read."""
        vocabulary = ExtendedVocabulary(Bytes(), self.corpus.extra_ids)
        return self._features(blank(self.objective[0], self.length, vocabulary))

    def example(self) -> str:
        """Show the beginning of the first training sequence, token by token, and which positions the loss counts."""
        if not self.is_ready:
            text = next(iter(self.corpus.texts()))[:_SHOWN_CHARACTERS]
            return (
                f'The vocabulary {self.corpus.vocabulary_path} does not exist yet; the first run trains it. '
                f'The text begins with:\n{text}'
            )
        return '\n'.join(
            f'{type(objective).__name__}, {share:.0%} of the sequences:\n'
            + self._show(self._features(self._dataset(objective)[0]))
            for objective, share in zip(self.objective, self._shares, strict=True)
        )

    def describe(self) -> str:
        """Return both parts in numbers, after reading and checking them; log if the vocabulary does not fit the text.

        Before the vocabulary exists, the text is only read.
        """
        if not self.is_ready:
            return f'data       {self.corpus.task}: in tokens when the first run has trained the vocabulary'
        next(self.validation(1))
        lines = []
        for split, title in (('train', 'training'), ('validation', 'held out')):
            caches = [cache for cache, _ in self.corpus.parts(split)]
            documents, tokens = sum(len(cache.offsets) - 1 for cache in caches), sum(c.num_tokens for c in caches)
            lines.append(f'{title:<10} {counted(documents, "document")}, {counted(tokens, "token")}')
        per_character = self._tokens_per_character()
        if self.corpus.vocabulary_path is not None and (warning := overview.warning_of_bytes(per_character)):
            _LOGGER.warning(f'{warning}. --gin.VOCABULARY="\'sentencepiece\'" fits one to the text.')
        return '\n'.join([*lines, f'text       {per_character:.2f} tokens per character'])

    def _tokens_per_character(self) -> float:
        """Return the mean number of tokens per character in the beginnings of some held-out documents."""
        sample = [ids for cache, _ in self.corpus.parts('validation') for ids in cache.beginnings(_SAMPLED_DOCUMENTS)]
        return sum(map(len, sample)) / max(1, sum(len(self.vocabulary.decode(ids)) for ids in sample))

    def _show(self, features: Features) -> str:
        names = ('input_tokens', 'target_tokens', 'loss_weights')
        inputs, targets, weights = (features[f'decoder_{name}'] for name in names)
        both_ways = features.get('decoder_causal_attention', np.zeros_like(inputs))
        rows = ['position  input → target, ✓ if the loss counts it, ↔ if the input is attended bidirectionally']
        for i in range(min(_SHOWN_TOKENS, len(targets))):
            source, target = (repr(self.vocabulary.decode([int(t)])) for t in (inputs[i], targets[i]))
            mark = ('✓' if weights[i] else '·') + (' ↔' if both_ways[i] else '')
            rows.append(f'{i:>8}  {inputs[i]:>6} {source:<18} → {targets[i]:>6} {target:<18} {mark}')
        rows.append(f'... {len(targets) - _SHOWN_TOKENS} more')
        return '\n'.join(rows)

    # Training.

    def identity(self) -> dict[str, dict[str, Any]]:
        """Return, for each split, the number of its tokens and a SHA-256 of them, over all parts of a mixture."""
        found: dict[str, dict[str, Any]] = {}
        for split in SPLITS:
            parts = [cache.identity() for cache, _ in self.corpus.parts(split)]
            digest = hashlib.sha256(''.join(part['sha256'] for part in parts).encode()).hexdigest()
            found[split] = {'tokens': sum(part['tokens'] for part in parts), 'sha256': digest}
        return found

    def batch(self, first: int, size: int) -> Batch:
        """Return sequences first, first + 1, ... of the shuffled, endless order: features [size, L]."""
        return _stack([self._features(self._order[i]) for i in range(first, first + size)])

    @property
    def num_sequences(self) -> int:
        """Number of sequences in an epoch; depends on the length of text that the objectives read."""
        raw = [objective.raw_length(self.length, self.vocabulary) for objective in self.objective]
        mean = sum(share * length for share, length in zip(self._shares, raw, strict=True))
        return sum(int(cache.num_tokens / mean) for cache, _ in self.corpus.parts('train'))

    @functools.cached_property
    def _order(self) -> grain.MapDataset:
        datasets = [self._dataset(objective, index) for index, objective in enumerate(self.objective)]
        return datasets[0] if len(datasets) == 1 else grain.MapDataset.mix(datasets, self._shares)

    def _dataset(self, objective: Objective, index: int = 0) -> grain.MapDataset:
        """Return the endless shuffled sequences of one objective, as features."""
        length = objective.raw_length(self.length, self.vocabulary)
        parts = self.corpus.parts('train')
        datasets = []
        for number, (cache, _) in enumerate(parts, index * len(parts)):
            sequences = _Sequences(cache, length, keep_rest=False)
            if not len(sequences):
                raise UserError(
                    f'Task {self.corpus.task!r} has {cache.num_tokens:,} training tokens, less than one sequence of '
                    f"{length}. Provide more text or lower TASK_FEATURE_LENGTHS = {{'targets': {self.length}}}."
                )
            order = grain.MapDataset.source(sequences).shuffle(seed=self._seed + number).repeat()
            corrupt = functools.partial(self._apply, objective, sequences)
            datasets.append(order.random_map(corrupt, seed=self._seed + number))
        shares = [share for _, share in parts]
        return datasets[0] if len(datasets) == 1 else grain.MapDataset.mix(datasets, shares)

    def _apply(self, objective: Objective, sequences: _Sequences, tokens: np.ndarray, rng: np.random.Generator):
        another = lambda: sequences[int(rng.integers(len(sequences)))]  # noqa: E731
        return objective(tokens, self.length, self.vocabulary, rng, another)

    def _features(self, features: Features) -> Features:
        """Add the features that other objectives of the mixture have: attention that is causal everywhere."""
        if any(o.is_bidirectional for o in self.objective) and 'decoder_causal_attention' not in features:
            features |= {'decoder_causal_attention': np.zeros(self.length, np.int32)}
        return features

    # Validation.

    def validation(self, size: int) -> Iterator[Batch]:
        """Yield the whole validation split, every token once; weight 0 pads the last batch.

        Sequences come in a fixed shuffled order, so that the first batches are representative. Each of several
        objectives takes its share of them.
        """
        held_out = self._held_out
        order = np.random.default_rng(0).permutation(len(held_out))
        for first in range(0, len(order), size):
            rows = []
            for objective, sequences, number, index in (held_out[i] for i in order[first : first + size]):
                rng = np.random.default_rng((number, index))
                rows.append(self._features(self._apply(objective, sequences, sequences[index], rng)))
            nothing = {name: np.zeros_like(value) for name, value in rows[0].items()}
            yield _stack(rows + [nothing] * (size - len(rows)))

    def validation_by_length(self, size: int) -> Iterator[tuple[np.ndarray, Batch]]:
        """Yield the validation split with the numbers of the sequences, which have the same length."""
        for number, batch in enumerate(self.validation(size)):
            yield np.arange(number * size, min((number + 1) * size, self.num_validation_sequences)), batch

    @property
    def num_validation_sequences(self) -> int:
        """Number of sequences in the held-out part."""
        return len(self._held_out)

    @functools.cached_property
    def _held_out(self) -> list[tuple[Objective, _Sequences, int, int]]:
        """Objective, sequences, number of the objective and index of each held-out sequence."""
        held_out = []
        for (cache, _), (number, objective) in itertools.product(
            self.corpus.parts('validation'), enumerate(self.objective)
        ):
            sequences = _Sequences(cache, objective.raw_length(self.length, self.vocabulary), keep_rest=True)
            chosen = np.random.default_rng(number).permutation(len(sequences))
            chosen = np.sort(chosen[: max(1, round(len(sequences) * self._shares[number]))])
            held_out += [(objective, sequences, number, int(index)) for index in chosen]
        return held_out

    def beginnings(self, count: int = 3) -> list[str]:
        """Return the beginnings of some held-out documents or, where there are few documents, of parts of them."""
        found = []
        for cache, _ in self.corpus.parts('validation')[:count]:
            starts = np.array(cache.offsets[:-1])
            if len(starts) < count:
                starts = np.linspace(0, cache.num_tokens, count, endpoint=False).astype(int)
            for start in starts[np.linspace(0, len(starts) - 1, count).astype(int)]:
                length = min(_PROMPT_TOKENS, self.length // 2, cache.num_tokens - start)
                found.append(self.vocabulary.decode(cache.read(int(start), int(start + length))).rstrip('\ufffd'))
        return [text for text in dict.fromkeys(found) if text.strip()][:count]

    @property
    def validation_bytes(self) -> int:
        """Number of UTF-8 bytes of the validation text: the divisor of bits per byte."""
        return sum(cache.num_bytes for cache, _ in self.corpus.parts('validation'))

    @property
    def num_validation_tokens(self) -> int:
        """Number of tokens of the validation text."""
        return sum(cache.num_tokens for cache, _ in self.corpus.parts('validation'))

    def baselines(self, sequences_seen: int) -> dict[str, float]:
        """Return the bits per byte of `gzip -9` and of an order-3 n-gram of the seen text on the validation text."""
        seen = range(min(sequences_seen, self.num_sequences))
        train = ''.join(self.vocabulary.decode(self._order[i]['decoder_target_tokens']) for i in seen).encode()
        held_out = [
            self.vocabulary.decode(document).encode()
            for cache, _ in self.corpus.parts('validation')
            for document in cache.documents()
        ]
        return {
            'gzip -9': baselines.gzip_bits_per_byte(held_out),
            'order-3 byte n-gram': baselines.ngram_bits_per_byte(train, held_out, order=3),
        }


def _stack(rows: Sequence[Features]) -> Batch:
    return {name: np.stack([row[name] for row in rows]) for name in rows[0]}
