"""Changes of texts: the same for the same seed, of the kind that their name says, and none where there is nothing."""

import re
import unicodedata

import pytest

from palm_jax.data.augmentation import thesaurus
from palm_jax.errors import UserError
from palm_jax.probing.perturbations import PERTURBATIONS, of_synonyms

TEXT = 'Why is my card payment of 250 EUR to her still pending after 3 days?'


@pytest.mark.parametrize('name', PERTURBATIONS)
def test_a_change_depends_on_text_and_seed_alone(name):
    change = PERTURBATIONS[name]
    assert change(TEXT) == change(TEXT) != TEXT
    for text in ('', '中文', '🙂', 'a', '1', ' '):
        assert isinstance(change(text), str)


def test_each_changes_what_its_name_says():
    changed = {name: change(TEXT) for name, change in PERTURBATIONS.items()}
    assert changed['uppercase'] == TEXT.upper() and changed['lowercase'] == TEXT.lower()
    assert changed['blanks'].split() == TEXT.split() and changed['blanks'] != TEXT.strip()
    assert changed['punctuation'] == TEXT[:-1] and PERTURBATIONS['punctuation']('no end') == 'no end.'
    letters = re.sub(r'\d', '#', changed['numbers'])
    assert letters == re.sub(r'\d', '#', TEXT) and not re.search(r'\b0\d', changed['numbers'])
    assert changed['negation'] == TEXT.replace('Why is', 'Why is not')
    twins = [(a, b) for a, b in zip(TEXT, changed['homoglyphs'], strict=True) if a != b]
    assert twins and all('CYRILLIC' in unicodedata.name(b) and 'LATIN' in unicodedata.name(a) for a, b in twins)
    words, typed = TEXT.split(), changed['typos'].split()
    wrong = [(a, b) for a, b in zip(words, typed, strict=True) if a != b]
    assert len(wrong) == 1 and abs(len(wrong[0][0]) - len(wrong[0][1])) <= 1 and wrong[0][0][0] == wrong[0][1][0]


@pytest.mark.parametrize('text, negated', [
    ('It is late', 'It is not late'), ('It is not late', 'It is late'), ("I can't pay", 'I can pay'),
    ("I won't go", 'I will go'), ('They have it', 'They have not it'), ('No verb here', 'No verb here'),
])  # fmt: skip
def test_negation_is_put_or_taken_away(text, negated):
    assert PERTURBATIONS['negation'](text) == negated


@pytest.mark.parametrize('text, swapped', [
    ('She gave him her book', 'He gave her his book'), ('It is his, Mr. Smith', 'It is hers, Mrs. Smith'),
    ('MY FATHER AND HERS', 'MY MOTHER AND HIS'), ('the theme of others', 'the theme of others'),
    ('I saw her.', 'I saw him.'),
])  # fmt: skip
def test_genders_are_swapped(text, swapped):
    assert PERTURBATIONS['gender'](text) == swapped


def test_seeds_change_the_places():
    assert len({PERTURBATIONS['typos'](TEXT, seed) for seed in range(8)}) > 3


def test_words_of_a_thesaurus_are_replaced_by_their_synonyms(tmp_path):
    (tmp_path / 'synonyms.tsv').write_text('payment\tsettlement;transfer\nstill\tyet\n')
    change = of_synonyms(thesaurus.read(str(tmp_path / 'synonyms.tsv'), '--synonyms').synonyms)
    found = {change(TEXT, seed) for seed in range(20)}
    one_word = [('payment', 'settlement'), ('payment', 'transfer'), ('still', 'yet')]
    assert found == {TEXT.replace(*pair) for pair in one_word} and change(TEXT) == change(TEXT)
    assert change('Payment, STILL') in ('Settlement, STILL', 'Transfer, STILL', 'Payment, Yet')
    assert change('repayment') == 'repayment' and change('') == ''
    with pytest.raises(UserError, match=r"--synonyms = 'none\.tsv': no such file"):
        thesaurus.read('none.tsv', '--synonyms')
