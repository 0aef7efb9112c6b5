"""EDA's operators, AEDA and entity replacement, and the files that synonyms come from."""

import collections

import numpy as np
import pytest

from palm_jax.data.augmentation import eda, thesaurus
from palm_jax.data.augmentation.aeda import AEDA, MARKS
from palm_jax.data.augmentation.eda import EDA
from palm_jax.data.augmentation.entity_replacement import EntityReplacement
from palm_jax.data.augmentation.thesaurus import Thesaurus
from palm_jax.data.readers.conll import Sentence
from palm_jax.errors import UserError
from palm_jax.metrics import entities

WORDS = ['the', 'quick', 'fox', 'and', 'the', 'lazy', 'dog', 'jump', 'over', 'a', 'Quick', 'fence', 'today']
SYNONYMS = Thesaurus({'quick': ['fast', 'rapid'], 'lazy': ['idle'], 'the': ['wrong']})


def random(seed=0):
    return np.random.default_rng(seed)


def test_replacement_takes_synonyms_of_words_that_are_not_stop_words():
    one = eda.replace(WORDS, 1, SYNONYMS, random())
    assert len(one) == len(WORDS) and 1 <= sum(a != b for a, b in zip(WORDS, one, strict=True)) <= 2
    every = eda.replace(WORDS, 99, SYNONYMS, random())
    changed = [(a, b) for a, b in zip(WORDS, every, strict=True) if a != b]
    assert [a for a, _ in changed] == ['quick', 'lazy', 'Quick']
    assert {b for _, b in changed} <= {'fast', 'rapid', 'idle', 'Fast', 'Rapid'} and changed[-1][1][0].isupper()


def test_insertion_swap_and_deletion():
    longer = eda.insert(WORDS, 3, SYNONYMS, random())
    more = collections.Counter(longer) - collections.Counter(WORDS)
    assert sum(more.values()) == 3 and set(more) <= {'fast', 'rapid', 'idle', 'Fast', 'Rapid'}
    swapped = eda.swap(WORDS, 1, random())
    assert sorted(swapped) == sorted(WORDS) and sum(a != b for a, b in zip(WORDS, swapped, strict=True)) == 2
    lengths = [len(eda.delete(WORDS, 0.2, random(seed))) for seed in range(400)]
    np.testing.assert_allclose(np.mean(lengths), 0.8 * len(WORDS), rtol=0.05)
    assert len(eda.delete(WORDS, 1.0, random())) == 1
    assert eda.swap(['one'], 3, random()) == ['one'] and eda.insert(['the'], 2, SYNONYMS, random()) == ['the']


def test_eda_takes_its_operators_in_turn(tmp_path):
    path = tmp_path / 'synonyms.tsv'
    path.write_text('quick\tfast;rapid\nlazy\tidle\n')
    augmenter = EDA(alpha=0.1, thesaurus=str(path))
    replaced, inserted, swapped, deleted = (augmenter.change(WORDS, copy, random(3)) for copy in range(4))
    assert len(replaced) == len(WORDS) == len(inserted) - 1 and set(replaced) != set(WORDS)
    assert sorted(swapped) == sorted(WORDS) and len(deleted) <= len(WORDS)
    assert sorted(EDA().change(WORDS, 0, random())) == sorted(WORDS)  # a swap: without synonyms there are two operators
    assert EDA().change([], 0, random()) == []
    for operators, message in (
        (['swop'], "'swop' does not exist; possible: replacement"),
        (['insertion'], 'THESAURUS'),
    ):
        with pytest.raises(UserError, match=message):
            EDA(operators=operators)


def test_aeda_inserts_up_to_a_third_of_the_words():
    counts = []
    for seed in range(200):
        changed = AEDA().change(WORDS, 0, random(seed))
        assert [word for word in changed if word not in MARKS] == WORDS
        counts.append(len(changed) - len(WORDS))
    assert set(counts) == {1, 2, 3, 4}


def test_entities_are_replaced_by_others_of_their_type():
    sentences = [
        Sentence(('Ann', 'Lee', 'is', 'in', 'Oslo', '.'), ('B-PER', 'I-PER', 'O', 'O', 'B-LOC', 'O'), 'a'),
        Sentence(('Bob', 'left', 'New', 'York'), ('B-PER', 'O', 'B-LOC', 'I-LOC'), 'b'),
        Sentence(('nothing', 'here'), ('O', 'O'), 'c'),
    ]
    mentions = {'PER': {('Ann', 'Lee'), ('Bob',)}, 'LOC': {('Oslo',), ('New', 'York')}}
    augmenter = EntityReplacement(probability=1.0).prepared(sentences)
    seen = set()
    for seed in range(20):
        changed = augmenter.augment(sentences[0], 0, random(seed))
        found = [(e.type, changed.words[e.first : e.last]) for e in entities.decode(changed.tags)]
        assert [name for name, _ in found] == ['PER', 'LOC'] and all(words in mentions[name] for name, words in found)
        assert [w for w, tag in zip(changed.words, changed.tags, strict=True) if tag == 'O'] == ['is', 'in', '.']
        seen.add(changed.words)
    assert len(seen) == 4
    assert augmenter.augment(sentences[2], 0, random()) == sentences[2]
    with pytest.raises(UserError, match=r'gin/heads/tagging\.gin'):
        augmenter.prepared(['a text'])


MY_THES = """ISO8859-1
quick|2
(adj)|fast|speedy (similar term)|swift|slow (antonym)
(noun)|flesh (generic term)|nail bed
caf\xe9|1
-|coffee house|bar (related term)
"""


def test_files_of_synonyms(tmp_path):
    path = tmp_path / 'th_en_US_v2.dat'
    path.write_bytes(MY_THES.encode('latin-1'))
    found = thesaurus.read(str(path))
    assert found.synonyms('Quick') == ('Fast', 'Swift', 'Nail bed') and found.synonyms('café') == ('coffee house',)
    assert found.synonyms('slow') == () and len(found) == 2
    pairs = tmp_path / 'pairs.csv'
    pairs.write_text('big,large\nbig,"great;huge"\nbig,BIG\n')
    assert thesaurus.read(str(pairs)).synonyms('big') == ('large', 'great', 'huge')


WORDNET = """  1 This software and database is being provided to you, the LICENSEE
00001740 29 v 04 breathe 0 take_a_breath 0 respire 0 suspire 3 021 * 00005041 v 0000 01 + 02 00 | draw air in
00003316 00 a 02 big(a) 0 large 1 000 | above average in size
00002573 00 a 01 able 0 005 = 05200169 n 0000 | having the necessary means
"""


def test_files_of_wordnet(tmp_path):
    (tmp_path / 'data.verb').write_text(WORDNET)
    found = thesaurus.read(f'{tmp_path}/data.*')
    assert found.synonyms('Breathe') == ('Take a breath', 'Respire', 'Suspire')
    assert found.synonyms('large') == ('big',) and found.synonyms('able') == ()
    (tmp_path / 'data.noun').write_text('not a synset\n')
    with pytest.raises(UserError, match=r'data.noun, line 1: this is not a line of a data file of WordNet'):
        thesaurus.read(f'{tmp_path}/data.n*')


@pytest.mark.parametrize(
    ('name', 'text', 'message'),
    [
        ('a.tsv', 'big large\n', r'a.tsv, line 1: a line needs a word, a tab, and a synonym'),
        ('b.csv', 'big,large\nsmall\n', r'b.csv, line 2: a line needs a word, a comma'),
        ('c.dat', 'quick|1\n', r'c.dat, line 1: a MyThes file begins with its encoding'),
        ('d.dat', 'UTF-8\nquick|1\n(adj)|fast\nslow\n', r'd.dat, line 4: expected a word and its number of meanings'),
        ('e.tsv', '\n', 'contains no synonyms'),
    ],
)
def test_a_file_of_another_form_is_refused(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=message):
        thesaurus.read(str(tmp_path / name))
