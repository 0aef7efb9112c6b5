"""Text for pretraining: a seqio task or mixture, or own files, its vocabulary and its cached tokens."""

from __future__ import annotations

import functools
import itertools
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from palm_jax.data import stdlib, token_cache, vocabularies, vocabulary_fitting
from palm_jax.data.marks import Marked
from palm_jax.data.paths import cache_dir
from palm_jax.data.text_files import TextFiles
from palm_jax.data.token_cache import TokenCache
from palm_jax.errors import UserError

_OWN_FILES = 'text_files'


class Corpus:
    """Where the text comes from and how it becomes ids.

    Args:
      task: name of a registered task or mixture.
      vocabulary: `bytes`, `sentencepiece` (fitted to the text on first use and kept) or the path
        of a SentencePiece model or a tokenizer.json.
      vocabulary_size: ids of a fitted vocabulary, the extra ones included.
      extra_ids: so many above the text's own stand for what no text holds: sentinels, masks,
        modes; see `Marked`.
      train_files, validation_files, text_column, bad_rows: own text instead of `task`; see `TextFiles`.
    """

    def __init__(
        self,
        task: str,
        vocabulary: str = 'sentencepiece',
        vocabulary_size: int = 32_000,
        extra_ids: int = 0,
        train_files: str | None = None,
        validation_files: str | None = None,
        text_column: str = 'text',
        bad_rows: str | None = None,
    ):
        if validation_files is not None and train_files is None:
            raise UserError('VALIDATION_FILES is set and TRAIN_FILES is not.')
        if not 0 <= extra_ids < vocabulary_size:
            raise UserError(
                f'EXTRA_IDS is {extra_ids}; it must be at least 0 and below VOCABULARY_SIZE = {vocabulary_size}.'
            )
        self.task = task if train_files is None else _OWN_FILES
        self._files = None if train_files is None else TextFiles(train_files, validation_files, text_column, bad_rows)
        self._vocabulary_name, self._fitted_size, self._extra_ids = vocabulary, vocabulary_size - extra_ids, extra_ids

    @functools.cached_property
    def vocabulary(self) -> Marked:
        """The run's vocabulary, fitted first where it does not exist yet."""
        path = self.vocabulary_path
        if path is None:
            return Marked(vocabularies.Bytes(), self._extra_ids)
        if not path.is_file() and self._vocabulary_name == 'sentencepiece':
            vocabulary_fitting.fit(self.texts(), self._fitted_size, path)
        return Marked(vocabularies.named(str(path)), self._extra_ids)

    @property
    def vocabulary_path(self) -> Path | None:
        """Where the vocabulary's file is or will be; None for bytes."""
        if self._vocabulary_name == 'bytes':
            return None
        if self._vocabulary_name == 'sentencepiece':
            name = f'{self.task}_{self._identity}_{self._fitted_size}.model'
            return cache_dir() / 'vocabularies' / name
        return Path(self._vocabulary_name).expanduser()

    @property
    def is_ready(self) -> bool:
        """Whether the vocabulary exists; the first run makes it."""
        return self.vocabulary_path is None or self.vocabulary_path.is_file()

    def texts(self) -> Iterator[str]:
        """The training text, a document at a time."""
        tasks = self._registry()
        return itertools.chain.from_iterable(map(tasks.texts, tasks.parts(self._registered_name)))

    @functools.cache  # noqa: B019 - one corpus lives as long as the run
    def parts(self, split: str) -> list[tuple[TokenCache, float]]:
        """The token caches of a task's or mixture's parts, made where missing, and their shares."""
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

    @functools.cached_property
    def _identity(self) -> str:
        if self._files is not None:
            return self._files.identity()
        return stdlib.identity() if self.task == 'python_stdlib' else 'v1'

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
