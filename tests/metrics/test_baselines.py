"""gzip and the n-gram model compared with their definitions."""

import gzip
import math
from collections import Counter

import numpy as np

from palm_jax.metrics import baselines

TRAIN = b'the cat sat on the mat and the rat sat on the cat ' * 3
HELD_OUT = [b'the rat on the mat ', b'a cat!']


def slow_ngram(train, documents, order):
    """Return Witten-Bell bits per byte, computed with dictionaries, byte by byte."""
    bits = count = 0
    for document in documents:
        for i, byte in enumerate(document):
            p = 1 / 256
            for k in range(min(order, i) + 1):
                context = document[i - k : i]
                follows = Counter(train[j + k] for j in range(len(train) - k) if train[j : j + k] == context)
                n, t = sum(follows.values()), len(follows)
                if n:
                    p = (follows[byte] + t * p) / (n + t)
            bits -= math.log2(p)
            count += 1
    return bits / count


def test_the_ngram_equals_a_slow_one():
    for order in range(4):
        np.testing.assert_allclose(
            baselines.ngram_bits_per_byte(TRAIN, HELD_OUT, order), slow_ngram(TRAIN, HELD_OUT, order), rtol=1e-9
        )


def test_the_ngram_is_a_distribution():
    total = sum(2 ** -(4 * baselines.ngram_bits_per_byte(TRAIN, [b'sat' + bytes([b])], 3)) for b in range(256))
    context = 2 ** -(3 * baselines.ngram_bits_per_byte(TRAIN, [b'sat'], 3))
    np.testing.assert_allclose(total / context, 1.0, rtol=1e-9)


def test_gzip_is_gzip():
    text = b''.join(HELD_OUT)
    assert baselines.gzip_bits_per_byte(HELD_OUT) == 8 * len(gzip.compress(text, 9, mtime=0)) / len(text)


def test_who_has_seen_nothing_finds_all_bytes_equally_likely():
    assert baselines.ngram_bits_per_byte(b'', [b'abc']) == 8.0


def test_training_text_may_be_shorter_than_the_context():
    np.testing.assert_allclose(
        baselines.ngram_bits_per_byte(b'ab', HELD_OUT, 3), slow_ngram(b'ab', HELD_OUT, 3), rtol=1e-9
    )
