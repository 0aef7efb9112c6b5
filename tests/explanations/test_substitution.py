"""The fewest replaced words that change a decision, against all subsets, and what the margin is."""

import itertools

import numpy as np
import pytest

from palm_jax.errors import UserError
from palm_jax.explanations.substitution import margins_of, substitute, substitutes_of

SETS = substitutes_of([['good', 'bad', 'fair'], ['fast', 'slow'], ['cheap', 'dear'], ['Anna', 'Bob']], 'f')
VALUES = {'good': 2.0, 'bad': -2.0, 'fair': 0.5, 'fast': 1.0, 'slow': -1.0, 'cheap': 0.3, 'dear': -0.3}


def margins(texts, start=0.0):
    return np.array([start + sum(VALUES.get(word.strip('.,').lower(), 0) for word in text.split()) for text in texts])


@pytest.mark.parametrize('start', [-3.2, 0.0, 1.9, 2.4, 4.0])
def test_as_few_words_as_any_subset_needs(start):
    text = 'Good, fast and cheap. Anna is GOOD.'
    of = lambda texts: margins(texts, start)  # noqa: E731
    found = substitute(of, text, SETS, 5)
    words = text.split()
    changes = [
        [(i, other) for other in SETS.get(word.strip('.,').lower(), ())] for i, word in enumerate(words)
    ]  # fmt: skip
    sizes = [
        size
        for size in range(1, 6)
        for slots in itertools.combinations(range(len(words)), size)
        for chosen in itertools.product(*(changes[i] for i in slots))
        if of([' '.join(dict(chosen).get(i, word) for i, word in enumerate(words))])[0] < 0
    ]
    if of([text])[0] < 0 or not sizes:
        assert found is None or found.margin < 0
    else:
        assert len(found.words) == min(sizes) and found.margin == pytest.approx(of([found.text])[0])
    assert substitute(of, text, SETS, 0) is None


def test_replacements_keep_the_rest_of_the_text():
    found = substitute(lambda texts: margins(texts), 'Good,  fast and cheap.', SETS, 5)
    assert (found.text, found.words) == ('Bad,  fast and cheap.', (('Good', 'Bad'),))
    assert substitute(lambda texts: margins(texts), 'nothing to replace', SETS, 5) is None
    two = substitute(lambda texts: margins(texts, 2.5), 'good fast', SETS, 5)
    assert two.words == (('good', 'bad'), ('fast', 'slow')) and two.margin == pytest.approx(-0.5)


def test_the_margin_is_that_of_the_decision():
    p = {'a': 0.5, 'b': 0.2, 'c': 0.3}
    assert margins_of(lambda texts: [p], 'a', True)(['x']) == pytest.approx([0.2])
    assert margins_of(lambda texts: [p], 'b', False)(['x']) == pytest.approx([-0.3])


@pytest.mark.parametrize('sets', [{}, [], ['ab'], [['a']], [['a', 'A']], [['a', 1]]])
def test_what_is_not_a_set_is_refused(sets):
    with pytest.raises(UserError, match=r'sets of words|a set is a list'):
        substitutes_of(sets, 'f')
