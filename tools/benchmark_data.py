"""`benchmark data`: speed of batches from raw text and from the cache, compared with tf.data."""

from __future__ import annotations

import argparse
import itertools
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

from palm_jax.data.pretraining import token_cache
from palm_jax.data.pretraining.corpus import Corpus
from palm_jax.data.pretraining.dataset import LanguageModelData
from palm_jax.data.vocabulary import vocabularies
from palm_jax.data.vocabulary.vocabularies import Vocabulary

_TASK, _VOCABULARY_SIZE = 'python_stdlib', 32_000
_FIRST_BATCH = """
import time
start = time.monotonic()
import sys
from palm_jax.data.pretraining.dataset import LanguageModelData
from palm_jax.data.pretraining.corpus import Corpus
data = LanguageModelData(Corpus({task!r}, {vocabulary!r}), {{'targets': {length}}})
data.batch(0, {batch})
assert 'tensorflow' not in sys.modules
print(time.monotonic() - start)
"""


def compare(options: argparse.Namespace) -> None:
    """Run all pipelines in turn, `steps` times; print medians of tokens/s and the time until the first batch."""
    corpus = Corpus(_TASK, options.vocabulary, _VOCABULARY_SIZE)
    corpus.parts('train')  # builds the vocabulary and the cache if they are missing
    data = LanguageModelData(corpus, {'targets': options.length})
    vocabulary = corpus.vocabulary.text
    texts = list(itertools.islice(corpus.texts(), options.documents))
    pipelines: dict[str, Callable[[], int]] = {
        'raw text to a cache': lambda: _tokenize(options.documents, vocabulary),
        'raw text, tf.data only': lambda: _tensorflow(texts, vocabulary),
        f'cache, packed at {options.length}': lambda: _from_cache(data, options.batch),
    }
    speeds: dict[str, list[float]] = {name: [] for name in pipelines}
    starts = []
    for _ in range(options.steps):
        for name, pipeline in pipelines.items():
            start = time.monotonic()
            count = pipeline()
            speeds[name].append(count / (time.monotonic() - start))
        starts.append(_seconds_to_first_batch(options, corpus))
    cores = os.cpu_count() or 1
    print(f'{_TASK}, {vocabulary.fingerprint}, {cores} cores, medians of {options.steps}')
    for name, values in speeds.items():
        middle, low, high = statistics.median(values), min(values), max(values)
        print(f'  {name:<32}{middle:>14,.0f} tokens/s ({low:,.0f} to {high:,.0f}), {middle / cores:,.0f} per core')
    raw, alone = (statistics.median(speeds[name]) for name in list(pipelines)[:2])
    print(f'  raw text to a cache is {raw / alone:.2f} times as fast as tokenization with tf.data')
    print(f'  first batch from the cache after {statistics.median(starts):.1f} s of a new process, without TensorFlow')


def _tokenize(documents: int, vocabulary: Vocabulary) -> int:
    """Build a token cache as the first run does: registered task, tokens, ArrayRecord files; return its tokens."""
    from palm_jax.data.registry import tasks

    def some(first: int) -> Iterable[token_cache.Example]:
        return itertools.islice(tasks.token_examples(_TASK, 'train', vocabulary, first), documents)

    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder) / 'cache'
        token_cache.build(some, directory, vocabulary.size, 'tokens')
        return token_cache.TokenCache(directory).num_tokens


def _tensorflow(texts: list[str], vocabulary: Vocabulary) -> int:
    """Tokenize with seqio's vocabulary of the same kind in a tf.data pipeline; return the number of tokens."""
    import seqio
    import tensorflow as tf

    if isinstance(vocabulary, vocabularies.SentencePiece):
        theirs = seqio.SentencePieceVocabulary(vocabulary.path)
    else:
        theirs = seqio.ByteVocabulary()
    dataset = tf.data.Dataset.from_tensor_slices(texts)
    encoded = dataset.map(theirs.encode_tf, num_parallel_calls=tf.data.AUTOTUNE).prefetch(tf.data.AUTOTUNE)
    return sum(len(ids) for ids in encoded.as_numpy_iterator())


def _from_cache(data: LanguageModelData, batch: int, batches: int = 100) -> int:
    start = int(np.random.default_rng().integers(1_000_000))
    return sum(data.batch(start + k * batch, batch)['decoder_target_tokens'].size for k in range(batches))


def _seconds_to_first_batch(options: argparse.Namespace, corpus: Corpus) -> float:
    vocabulary = 'bytes' if corpus.vocabulary_path is None else str(corpus.vocabulary_path)
    code = _FIRST_BATCH.format(task=_TASK, vocabulary=vocabulary, length=options.length, batch=options.batch)
    return float(subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True).stdout)
