"""Near-duplicates against the similarity of all pairs."""

import functools
import random

import pytest

from palm_jax.microscope.near_duplicates import NearDuplicates

pytest.importorskip('datasketch', reason='pip install "palm_jax[contamination]"')


@functools.cache
def shingles(text):
    joined = ' '.join(text.lower().split())
    found = {joined[i : i + 5] for i in range(max(1, len(text) - 4))}
    return {s for s in found if len(s) == 5} or found


def jaccard(one, other):
    first, second = shingles(one), shingles(other)
    return len(first & second) / len(first | second)


def test_the_most_similar_training_text_is_found():
    rng = random.Random(0)
    words = ['plum', 'pear', 'apple', 'grape', 'melon', 'cherry', 'quince', 'lemon', '樱桃', 'Ähre']
    texts = [' '.join(rng.choices(words, k=30)) for _ in range(40)]
    training = [' '.join(rng.choices(words, k=30)) for _ in range(200)]
    for number in range(0, 40, 2):  # a changed copy of every second text
        changed = texts[number].split()
        changed[rng.randrange(30)] = 'fig'
        training.insert(rng.randrange(200), '  '.join(changed).upper())
    compared = NearDuplicates(texts, least=0.7)
    assert list(compared.passing(training)) == training
    for text, found in zip(texts, compared.found, strict=True):
        best = max(training, key=lambda other: jaccard(text, other))
        expected = jaccard(text, best)
        if expected >= 0.7:
            assert found is not None and found.similarity == pytest.approx(expected)
        else:
            assert found is None
    assert sum(found is not None for found in compared.found) == 20


def test_short_and_empty_texts_are_compared():
    compared = NearDuplicates(['', 'Yes', '是的', 'no'], least=1.0)
    for text in ('', ' yes ', '是的', 'not'):
        compared.add(text)
    assert [None if found is None else found.text for found in compared.found] == [None, ' yes ', '是的', None]
