"""Words of a row of tokens, and rows without some of them."""

import pytest

from palm_jax.data.vocabulary.vocabularies import Bytes
from palm_jax.errors import UserError
from palm_jax.explanations.answers import of_answer
from palm_jax.explanations.explainable import Explainable, HeadOutput
from palm_jax.explanations.words import words_of
from palm_jax.labels.label_kind import Margin

BYTES = Bytes()


class Pieces:
    """A vocabulary of the given pieces, from id 3; id 2 is unknown."""

    def __init__(self, *pieces):
        self.pieces = pieces

    def token_bytes(self, i):
        return self.pieces[i - 3].encode() if i >= 3 else None


@pytest.mark.parametrize('text, expected', [
    ("don't stop, ok?", ["don't", 'stop', ',', 'ok', '?']),
    ('  two  blanks ', ['two', 'blanks']),
    ('女人很好。ok', ['女', '人', '很', '好', '。', 'ok']),
    ('हिन्दी भाषा', ['हिन्दी', 'भाषा']),
    ('snake_case x1', ['snake_case', 'x1']),
    ('naïve Größe 🙂', ['naïve', 'Größe', '🙂']),
    ('   ', ['   ']),
])  # fmt: skip
def test_words_of_a_text(text, expected):
    ids = [0, *BYTES.encode(text), 1]
    words = words_of(ids, BYTES)
    assert [word.text for word in words] == expected
    assert [i for word in words for i in word.tokens] == list(range(1, len(ids) - 1))  # each token once, in order


def test_pieces_of_words_pairs_and_unknown_tokens():
    vocabulary = Pieces('un', 'related', ' to', ' of the', ' end')
    words = words_of([0, 3, 4, 5, 1, 6, 7, 2], vocabulary)
    assert [(w.text, w.tokens, w.part) for w in words] == [
        ('unrelated', (1, 2), 0), ('to', (3,), 0), ('of the', (5,), 1), ('end', (6,), 1), ('�', (7,), 1)
    ]  # fmt: skip
    assert words_of([0, 1], vocabulary) == ()


def test_a_character_that_is_cut_is_still_a_word():
    ids = [0, *BYTES.encode('ab é')[:-1]]
    assert [word.tokens for word in words_of(ids, BYTES)] == [(1, 2), (3, 4)]


def test_a_row_without_a_word():
    ids = (0, *BYTES.encode('a bc'), 1)
    row = Explainable(ids, words_of(ids, BYTES), 'x', HeadOutput((Margin('x', 0),)), num_bidirectional=len(ids))
    shorter = row.without({0})
    assert shorter.ids == (0, *BYTES.encode(' bc'), 1) and shorter.num_bidirectional == 5
    assert [(w.text, w.tokens) for w in shorter.words] == [('bc', (1, 2, 3))]


def test_a_tagged_word_keeps_its_position():
    ids = (0, *BYTES.encode('a bc d'))
    row = Explainable(ids, words_of(ids, BYTES), 'x', HeadOutput((Margin('x', 0),), positions=(4,)))
    shorter = row.without({0, 1})  # `bc`, whose tag is explained, becomes padding
    assert shorter.ids == (0, 0, 0, 0, *BYTES.encode(' d')) and shorter.output.positions == (3,)


def test_an_answer_is_predicted_from_what_is_left_of_its_prompt():
    prompt, answer = (0, *BYTES.encode('a bc')), (*BYTES.encode('de'), 1)
    row = of_answer(BYTES, prompt, answer, 'de', num_bidirectional=5)
    assert row.output.positions == (4, 5, 6) and [w.text for w in row.words] == ['a', 'bc']
    shorter = row.without({1})
    assert shorter.ids == (0, *BYTES.encode('ade')) and shorter.output.positions == (1, 2, 3)
    assert shorter.num_bidirectional == 2 and row.without({0, 1}).output.positions == (0, 1, 2)


def test_an_answer_without_a_start_token_keeps_a_token_before_it():
    row = of_answer(BYTES, BYTES.encode('ab'), (*BYTES.encode('c'), 1), 'c')
    assert row.without({0}).ids == (0, *BYTES.encode('c')) and row.without({0}).output.positions == (0, 1)
    with pytest.raises(UserError, match='The text to explain is empty'):
        of_answer(BYTES, (), (5,), 'c')
