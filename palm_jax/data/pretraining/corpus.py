"""Corpora for pretraining: seqio tasks, text files or a mixture of both, with a vocabulary and cached tokens."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import itertools
import json
import logging
import os
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any

from palm_jax import locks, pieces
from palm_jax.bounds import Above, AtLeast, Count, checked
from palm_jax.cache_directory import cache_dir
from palm_jax.data.pretraining import token_cache, token_pieces
from palm_jax.data.pretraining.mixtures import BINDING, Names, interleave, rates_of
from palm_jax.data.pretraining.token_cache import TokenCache
from palm_jax.data.readers.delimited import Layout
from palm_jax.data.readers.splits import Split
from palm_jax.data.readers.text_files import TextFiles, is_text_or_table
from palm_jax.data.registry import cache_keys, stdlib
from palm_jax.data.vocabulary import checks, fitting, vocabularies
from palm_jax.data.vocabulary.documents import encode_documents
from palm_jax.data.vocabulary.special_tokens import ExtendedVocabulary
from palm_jax.errors import UserError
from palm_jax.run_directory import RunDirectory, whole_file, write_whole

_LOGGER = logging.getLogger(__name__)
_CONTINUED_STRING = re.compile(r"'\s*\\?\n\s*'")  # where gin breaks a long string


@dataclasses.dataclass(frozen=True)
class _Source:
    """A part of a mixture: a registered task or mixture, or text files.

    Attributes:
      name: name in MIXTURE_OR_TASK_NAME, or TRAIN_FILES.
      rate: rate relative to the other parts; None is by size.
      files: text files; None for a registered task or mixture.
    """

    name: str
    rate: float | None
    files: TextFiles | None

    @property
    def title(self) -> str:
        """Name for file names and messages."""
        return self.name if self.files is None else f'text_files_{self.files.cache_key()}'

    def texts(self, split: Split) -> Iterator[str] | None:
        """The documents of a split; None if seqio must read them."""
        if self.files is not None:
            return (document['text'] for document in self.files.examples(split))
        return (module['text'] for module in stdlib.examples(split)) if self.name == 'python_stdlib' else None

    @functools.cached_property
    def cache_key(self) -> str:
        """A key that changes when the text does."""
        if self.files is not None:
            return ''  # the title of files contains theirs
        return cache_keys.task_cache_key(self.name)


@checked
class Corpus:
    """The text of a run and its vocabulary.

    Args:
      task: registered task or mixture, or a mixture of your own: `{'notes/': 2, 'reviews.csv': 1}` with rates,
        `['notes/', 'wiki40b_en']` by size. A name with the suffix of a file, a `/` or a `*`, or that exists as a
        path, is a file or folder.
      vocabulary: `bytes`, `sentencepiece` (trained on the text on first use and cached), or the path of a SentencePiece
        model or a tokenizer.json.
      vocabulary_size: number of ids of a trained vocabulary, including the extra ones.
      extra_ids: number of ids above those of the text, for special tokens: sentinels, masks and modes; see
        `ExtendedVocabulary`.
      train_files: text files to use instead of `task`; see `TextFiles`.
      validation_files: text files of the validation split; see `TextFiles`.
      text_column: column of tables that holds the text; see `TextFiles`.
      bad_rows: file that collects unusable rows; see `TextFiles`.
      temperature: temperature of a mixture by size: the rate of a part is its number of tokens to the power of
        1 / temperature.
      columns: names of the columns of tables without a header; see `Layout`.
      quoting: whether cells of tables may be enclosed in quotation marks; None is True for `.csv` and False for `.tsv`.
      encoding: encoding of files that are not UTF-8, as Python names it (`cp1250`); None: all are UTF-8.
    """

    def __init__(
        self,
        task: Names,
        vocabulary: str = 'sentencepiece',
        vocabulary_size: Count = 32_000,
        extra_ids: Annotated[int, AtLeast(0)] = 0,
        train_files: str | None = None,
        validation_files: str | None = None,
        text_column: str = 'text',
        bad_rows: str | None = None,
        temperature: Annotated[float, Above(0)] = 1.0,
        columns: Sequence[str] | None = None,
        quoting: bool | None = None,
        encoding: str | None = None,
    ):
        if validation_files is not None and train_files is None:
            raise UserError('VALIDATION_FILES is set, but TRAIN_FILES is not.')
        if not 0 <= extra_ids < vocabulary_size:
            raise UserError(
                f'EXTRA_IDS is {extra_ids}; it must be at least 0 and below VOCABULARY_SIZE = {vocabulary_size}.'
            )
        self.text_column, self.layout = text_column, Layout.of(columns, quoting, encoding)
        of_files = functools.partial(TextFiles, text_column=text_column, bad_rows=bad_rows, layout=self.layout)
        self._reading: dict[str, Any] = {
            'text_column': text_column,
            'bad_rows': bad_rows,
            'columns': columns,
            'quoting': quoting,
            'encoding': encoding,
        }
        if train_files is not None:
            self._sources = [_Source(train_files, None, of_files(train_files, validation_files))]
        else:
            self._sources = [
                _Source(name, rate, of_files(name, binding=BINDING) if _is_path(name) else None)
                for name, rate in rates_of(task)
            ]
        has_rates = any(source.rate is not None for source in self._sources)
        if temperature != 1 and (has_rates or len(self._sources) == 1):
            raise UserError(
                f'MIXTURE_TEMPERATURE = {temperature} requires a mixture by size, a list of names: '
                "--gin.MIXTURE_OR_TASK_NAME=\"['notes/', 'wiki40b_en']\""
            )
        self._temperature = temperature
        self._vocabulary_name, self._fitted_size, self.extra_ids = vocabulary, vocabulary_size - extra_ids, extra_ids
        self._kept_vocabulary: Path | None = None

    @property
    def names(self) -> list[str]:
        """Names of the registered tasks, files and folders that the text is of."""
        return [source.name for source in self._sources]

    def of_names(self, names: Sequence[str]) -> Corpus:
        """Return a corpus of other text in the vocabulary of this one, mixed by size.

        Args:
          names: registered tasks, files, globs or folders.
        """
        vocabulary, size = self.vocabulary_path, self._fitted_size + self.extra_ids
        if not self.is_ready:
            assert self.vocabulary  # which fits it
        return Corpus(list(names), str(vocabulary or 'bytes'), size, self.extra_ids, **self._reading)

    def prepare(self, run: RunDirectory) -> None:
        """Prepare the training of a run.

        A run that has a checkpoint keeps its vocabulary, so that none is fitted to a text that has changed since. A
        vocabulary that the user brings to a new run is checked.

        Raises:
          UserError: if its ids are not usable.
        """
        checkpoint = run.latest() or run.best()
        if checkpoint and self._is_vocabulary_of(whole_file(run.config, checkpoint)):
            files = (whole_file(f, checkpoint) for f in (run.sentencepiece_vocabulary, run.tokenizers_vocabulary))
            self._kept_vocabulary = next((file for file in files if file.is_file()), None)
        elif self._vocabulary_name not in ('bytes', 'sentencepiece'):
            checks.check_ids(self.vocabulary.text)
            checks.warn_about_losses(self.vocabulary.text, self._vocabulary_name, self._sample())

    def _is_vocabulary_of(self, config: Path) -> bool:
        """Return whether a run's config.gin names the vocabulary of this configuration."""
        text = config.read_text(encoding='utf-8', errors='replace') if config.is_file() else ''
        return repr(self._vocabulary_name) in _CONTINUED_STRING.sub('', text)

    def _sample(self) -> Iterator[str]:
        """Return the training documents of the parts that can be read without TensorFlow."""
        return itertools.chain.from_iterable(filter(None, (source.texts('train') for source in self._sources)))

    @functools.cached_property
    def task(self) -> str:
        """Name of the text in messages and file names."""
        return self._sources[0].title if len(self._sources) == 1 else f'mixture_of_{len(self._sources)}'

    @functools.cached_property
    def vocabulary(self) -> ExtendedVocabulary:
        """The vocabulary of the run, trained first if it does not exist yet."""
        path = self.vocabulary_path
        if path is None:
            return ExtendedVocabulary(vocabularies.Bytes(), self.extra_ids)
        if not path.is_file() and self._vocabulary_name == 'sentencepiece':
            setting = lambda size: f'--gin.VOCABULARY_SIZE={size + self.extra_ids}'  # noqa: E731
            with locks.wait_for(path.with_name(f'{path.name}.lock'), f'the vocabulary {path}'):
                if not path.is_file():
                    fitting.fit(self.texts(), self._fitted_size, path, setting=setting)
        return ExtendedVocabulary(vocabularies.load_vocabulary(str(path)), self.extra_ids)

    @property
    def vocabulary_path(self) -> Path | None:
        """Path of the vocabulary, whether or not it exists yet; None for bytes."""
        if self._vocabulary_name == 'bytes':
            return None
        is_fitted, named = self._vocabulary_name == 'sentencepiece', Path(self._vocabulary_name).expanduser()
        if self._kept_vocabulary is not None and (is_fitted or not named.is_file()):
            return self._kept_vocabulary
        if is_fitted:
            return cache_dir() / 'vocabularies' / f'{self.task}_{self._cache_key}_{self._fitted_size}.model'
        return named

    @property
    def is_ready(self) -> bool:
        """Whether the vocabulary exists; the first run trains it."""
        return self._vocabulary_name != 'sentencepiece' or bool(self.vocabulary_path and self.vocabulary_path.is_file())

    def texts(self) -> Iterator[str]:
        """Yield the training documents; the parts of a mixture alternate at their rates, as in training."""
        found: dict[str, tuple[Iterator[str], float]] = {}
        for source in self._sources:
            for part, share in self._parts_of(source).items():
                rate = share * (1.0 if source.rate is None else source.rate)
                if rate:
                    found[part] = source.texts('train') or self._registry().texts(part), rate
        return interleave(found)

    @functools.cache  # noqa: B019 - one corpus lives as long as the run
    def parts(self, split: Split) -> list[tuple[TokenCache, float]]:
        """Return the token caches of all parts, built where missing, and their rates, which sum to 1."""
        found = [(part, share, source) for source in self._sources for part, share in self._parts_of(source).items()]
        caches = [token_cache.TokenCache(self._build(source, part, split)) for part, _, source in found]
        rates = []
        for cache, (_, share, source) in zip(caches, found, strict=True):
            by_size = cache.num_tokens ** (1 / self._temperature) if len(self._sources) > 1 else 1.0
            rates.append(share * (by_size if source.rate is None else source.rate))
        total = sum(rates)
        return [(cache, rate / total) for cache, rate in zip(caches, rates, strict=True) if rate]

    def build(self, split: Split, together: bool = False) -> list[Path]:
        """Build the token caches of all parts where missing, and return their folders.

        Args:
          split: split of the tasks.
          together: whether other processes call this at the same time, to divide the work; see `token_pieces`. A task
            that makes ids in its own way is left to one of them.
        """
        found = [(source, part) for source in self._sources for part in self._parts_of(source)]
        return [self._build(source, part, split, together) for source, part in found]

    def _build(self, source: _Source, part: str, split: Split, together: bool = False) -> Path:
        cache_key = '' if source.files is not None else cache_keys.task_cache_key(part)
        directory = cache_dir() / 'tokens' / cache_keys.cache_name(part, cache_key, self.vocabulary.fingerprint) / split
        if token_cache.exists(directory):
            return directory
        texts = functools.partial(self._texts, source, part, split)
        size, label = self.vocabulary.text.size, f'tokens of {part} {split}'
        if (together or pieces.folder_of(directory).exists()) and texts() is not None:
            token_pieces.build(lambda: texts() or (), self.vocabulary, directory, size, label)
            return directory
        examples = functools.partial(self._examples, source, part, split)
        with locks.wait_for(token_cache.lock_of(directory), f'the token cache {directory}'):
            if not token_cache.exists(directory):
                token_cache.build(examples, directory, size, label)
        return directory

    def _texts(self, source: _Source, part: str, split: Split) -> Iterator[str] | None:
        """The documents of a part; None if a task makes ids in its own way."""
        return source.texts(split) or self._registry().plain_texts(part, split)

    def _examples(self, source: _Source, part: str, split: Split, first: int) -> Iterator[token_cache.Example]:
        """Yield the documents of a part from number `first` on, encoded."""
        texts = self._texts(source, part, split)
        if texts is None:
            return self._registry().token_examples(part, split, self.vocabulary, first)
        return encode_documents(self.vocabulary, itertools.islice(texts, first, None))

    def _parts_of(self, source: _Source) -> dict[str, float]:
        """Return the tasks of a source with their shares, from the cache if TensorFlow is not loaded."""
        if source.files is not None or source.name == 'python_stdlib':
            return {source.title: 1.0}
        file = cache_dir() / 'mixtures' / f'{cache_keys.cache_name(source.title, source.cache_key)}.json'
        if file.is_file() and 'seqio' not in sys.modules:
            with contextlib.suppress(ValueError):  # a file that an interruption has cut
                return json.loads(file.read_text(encoding='utf-8'))
        shares = self._registry().parts(source.title)
        with locks.wait_for(file.with_suffix('.lock'), f'the file {file}'):
            write_whole(file, json.dumps(shares))
        return shares

    @functools.cached_property
    def _cache_key(self) -> str:
        if len(self._sources) == 1:
            return self._sources[0].cache_key or 'v1'
        listing = [(source.title, source.cache_key, source.rate) for source in self._sources]
        return hashlib.sha256(repr(listing).encode()).hexdigest()[:12]

    def _registry(self) -> ModuleType:
        """Import `palm_jax.data.registry.tasks`, which loads TensorFlow, only when tokens have to be made."""
        if 'palm_jax.data.registry.tasks' not in sys.modules:
            os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')  # no warnings about GPUs, which TensorFlow is not to use
            _LOGGER.info('reading the task with seqio (loading TensorFlow takes some seconds) ...')
        from palm_jax.data.registry import tasks

        return tasks


def _is_path(name: str) -> bool:
    return any(character in name for character in '/*') or is_text_or_table(name) or Path(name).exists()
