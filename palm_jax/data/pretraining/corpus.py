"""Text for pretraining: seqio tasks, own files or a mixture of both, their vocabulary and cached tokens."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from palm_jax.cache_directory import cache_dir
from palm_jax.data.pretraining import token_cache
from palm_jax.data.pretraining.token_cache import TokenCache
from palm_jax.data.readers.text_files import TextFiles, is_text_or_table
from palm_jax.data.registry import cache_keys
from palm_jax.data.vocabulary import fitting, vocabularies
from palm_jax.data.vocabulary.special_tokens import ExtendedVocabulary
from palm_jax.errors import UserError

_BINDING = 'MIXTURE_OR_TASK_NAME'
Names = str | Sequence[str] | Mapping[str, float]


@dataclasses.dataclass(frozen=True)
class _Source:
    """What a mixture names: a registered task or mixture, or own files.

    Attributes:
      name: as it was given.
      rate: of its tokens against the others', or None: by its size.
      files: own text, or None.
    """

    name: str
    rate: float | None
    files: TextFiles | None

    @property
    def title(self) -> str:
        """For file names and messages."""
        return self.name if self.files is None else f'text_files_{self.files.cache_key()}'

    @functools.cached_property
    def cache_key(self) -> str:
        """Changes when the text does."""
        return '' if self.files is not None else cache_keys.task_cache_key(self.name)  # that of files is in the title


class Corpus:
    """Where the text comes from and how it becomes ids.

    Args:
      task: a registered task or mixture, or a mixture of one's own: `{'notes/': 2, 'reviews.csv': 1}` with rates,
        `['notes/', 'wiki40b_en']` by size. What has a file's suffix, a `/` or a `*`, or lies there, is a file
        or a folder.
      vocabulary: `bytes`, `sentencepiece` (fitted to the text on first use and kept) or the path
        of a SentencePiece model or a tokenizer.json.
      vocabulary_size: ids of a fitted vocabulary, the extra ones included.
      extra_ids: so many above the text's own stand for what no text holds: sentinels, masks,
        modes; see `Marked`.
      train_files, validation_files, text_column, bad_rows: own text instead of `task`; see `TextFiles`.
      temperature: of a mixture by size: a part is drawn in proportion to its tokens to the power of 1 / temperature.
    """

    def __init__(
        self,
        task: Names,
        vocabulary: str = 'sentencepiece',
        vocabulary_size: int = 32_000,
        extra_ids: int = 0,
        train_files: str | None = None,
        validation_files: str | None = None,
        text_column: str = 'text',
        bad_rows: str | None = None,
        temperature: float = 1.0,
    ):
        if validation_files is not None and train_files is None:
            raise UserError('VALIDATION_FILES is set and TRAIN_FILES is not.')
        if not 0 <= extra_ids < vocabulary_size:
            raise UserError(
                f'EXTRA_IDS is {extra_ids}; it must be at least 0 and below VOCABULARY_SIZE = {vocabulary_size}.'
            )
        if temperature <= 0:
            raise UserError(f'MIXTURE_TEMPERATURE is {temperature}; it must be above 0 (1: by size).')
        if train_files is not None:
            self._sources = [
                _Source(train_files, None, TextFiles(train_files, validation_files, text_column, bad_rows))
            ]
        else:
            self._sources = [
                _Source(name, rate, TextFiles(name, None, text_column, bad_rows, _BINDING) if _is_file(name) else None)
                for name, rate in _rates(task)
            ]
        has_rates = any(source.rate is not None for source in self._sources)
        if temperature != 1 and (has_rates or len(self._sources) == 1):
            raise UserError(
                f'MIXTURE_TEMPERATURE = {temperature} is for a mixture by size, a list of names: '
                "--gin.MIXTURE_OR_TASK_NAME=\"['notes/', 'wiki40b_en']\""
            )
        self._temperature = temperature
        self._vocabulary_name, self._fitted_size, self.extra_ids = vocabulary, vocabulary_size - extra_ids, extra_ids

    @functools.cached_property
    def task(self) -> str:
        """What the text is called, in messages and file names."""
        return self._sources[0].title if len(self._sources) == 1 else f'mixture_of_{len(self._sources)}'

    @functools.cached_property
    def vocabulary(self) -> ExtendedVocabulary:
        """The run's vocabulary, fitted first where it does not exist yet."""
        path = self.vocabulary_path
        if path is None:
            return ExtendedVocabulary(vocabularies.Bytes(), self.extra_ids)
        if not path.is_file() and self._vocabulary_name == 'sentencepiece':
            fitting.fit(self.texts(), self._fitted_size, path)
        return ExtendedVocabulary(vocabularies.load_vocabulary(str(path)), self.extra_ids)

    @property
    def vocabulary_path(self) -> Path | None:
        """Where the vocabulary's file is or will be; None for bytes."""
        if self._vocabulary_name == 'bytes':
            return None
        if self._vocabulary_name == 'sentencepiece':
            return cache_dir() / 'vocabularies' / f'{self.task}_{self._cache_key}_{self._fitted_size}.model'
        return Path(self._vocabulary_name).expanduser()

    @property
    def is_ready(self) -> bool:
        """Whether the vocabulary exists; the first run makes it."""
        return self.vocabulary_path is None or self.vocabulary_path.is_file()

    def texts(self) -> Iterator[str]:
        """The training text, a document at a time, of a mixture's parts in turn, as they are drawn in training."""
        tasks, rates = self._registry(), {}
        for source in self._sources:
            for part, share in tasks.parts(source.title).items():
                rates[part] = share * (1.0 if source.rate is None else source.rate)
        return _in_turn({part: (tasks.texts(part), rate) for part, rate in rates.items() if rate})

    @functools.cache  # noqa: B019 - one corpus lives as long as the run
    def parts(self, split: str) -> list[tuple[TokenCache, float]]:
        """The token caches of all parts, made where missing, and their shares."""
        found = [(part, share, source) for source in self._sources for part, share in self._parts_of(source).items()]
        caches = [token_cache.TokenCache(self._made(source, part, split)) for part, _, source in found]
        rates = []
        for cache, (_, share, source) in zip(caches, found, strict=True):
            by_size = cache.num_tokens ** (1 / self._temperature) if len(self._sources) > 1 else 1.0
            rates.append(share * (by_size if source.rate is None else source.rate))
        total = sum(rates)
        return [(cache, rate / total) for cache, rate in zip(caches, rates, strict=True) if rate]

    def make(self, split: str) -> list[Path]:
        """The folders of all parts' token caches, made where missing."""
        return [self._made(source, part, split) for source in self._sources for part in self._parts_of(source)]

    def _made(self, source: _Source, part: str, split: str) -> Path:
        cache_key = '' if source.files is not None else cache_keys.task_cache_key(part)
        directory = cache_dir() / 'tokens' / cache_keys.cache_name(part, cache_key, self.vocabulary.fingerprint) / split
        if not token_cache.exists(directory):
            examples = functools.partial(self._registry().token_examples, part, split, self.vocabulary)
            token_cache.build(examples, directory, self.vocabulary.text.size, f'tokens of {part} {split}')
        return directory

    def _parts_of(self, source: _Source) -> dict[str, float]:
        """The tasks of a source with their shares: its own, or a registered mixture's, kept for runs from the cache."""
        if source.files is not None or source.name == 'python_stdlib':
            return {source.title: 1.0}
        known = cache_dir() / 'mixtures' / f'{cache_keys.cache_name(source.title, source.cache_key)}.json'
        if known.is_file() and 'seqio' not in sys.modules:
            return json.loads(known.read_text())
        shares = self._registry().parts(source.title)
        known.parent.mkdir(parents=True, exist_ok=True)
        known.write_text(json.dumps(shares))
        return shares

    @functools.cached_property
    def _cache_key(self) -> str:
        if len(self._sources) == 1:
            return self._sources[0].cache_key or 'v1'
        listing = [(source.title, source.cache_key, source.rate) for source in self._sources]
        return hashlib.sha256(repr(listing).encode()).hexdigest()[:12]

    def _registry(self):
        """`palm_jax.data.registry.tasks`, imported only when tokens have to be made: it brings TensorFlow."""
        if 'palm_jax.data.registry.tasks' not in sys.modules:
            os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')  # it reports missing GPUs, which it is not to use
            print('reading the task with seqio (loading TensorFlow takes some seconds) ...', flush=True)
        from palm_jax.data.registry import tasks

        for source in self._sources:
            if source.files is not None:
                tasks.add_text_files(source.title, source.files)
        return tasks


def _is_file(name: str) -> bool:
    return any(character in name for character in '/*') or is_text_or_table(name) or Path(name).exists()


def _rates(task: Names) -> list[tuple[str, float | None]]:
    """Names with their rates, None where they go by size."""
    if isinstance(task, str):
        return [(task, None)]
    rates = dict(task) if isinstance(task, Mapping) else dict.fromkeys(task)
    if not rates or len(rates) < len(task):
        raise UserError(f'{_BINDING} = {task!r}: a mixture names at least one part, and each once.')
    for name, rate in rates.items():
        if not isinstance(name, str):
            raise UserError(f'{_BINDING}: {name!r} is no name of a task, a file or a folder.')
        if rate is not None and not (isinstance(rate, int | float) and rate > 0):
            raise UserError(f'{_BINDING}: the rate of {name!r} is {rate!r}; a rate is a number above 0.')
    return list(rates.items())


def _in_turn(parts: Mapping[str, tuple[Iterator[str], float]]) -> Iterator[str]:
    """Texts of all parts until all have ended; the part that is furthest behind its rate in characters comes next."""
    texts = {name: iterator for name, (iterator, _) in parts.items()}
    taken = dict.fromkeys(parts, 0.0)
    while texts:
        name = min(texts, key=lambda part: taken[part])
        text = next(texts[name], None)
        if text is None:
            del texts[name]
        else:
            taken[name] += len(text) / parts[name][1]
            yield text
