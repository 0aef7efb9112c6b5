"""Lines of CoNLL: what separates columns, schemes of tags, comments, patterns of words."""

import pytest

from palm_jax.data.readers import conll
from palm_jax.errors import UserError


@pytest.fixture
def sentences(tmp_path):
    """Reads (words, tags) of the sentences of a text."""

    def read(content, **options):
        (tmp_path / 't.conll').write_text(content)
        conll.read.cache_clear()
        return [(s.words, s.tags) for s in conll.read(str(tmp_path / 't.conll'), 'TRAIN_FILES', **options)]

    return read


def test_comments_of_conll_u_are_skipped(sentences):
    assert sentences('# text = a b\n# id 7\tdomain=en\n# O\na O\n') == [(('#', 'a'), ('O', 'O'))]


def test_columns_of_conll_are_separated_by_blanks_and_tabs_alone(sentences):
    assert sentences('10\u00a0000 B-NUM\n\u3000 O\na\u2003b\u2028c  O \n') == [
        (('10\u00a0000', '\u3000', 'a\u2003b\u2028c'), ('B-NUM', 'O', 'O'))
    ]
    assert sentences('New York\tNNP\tB-LOC\t\n \tX\tO\n\u3000\tX\tO\n') == [
        (('New York', ' ', '\u3000'), ('B-LOC', 'O', 'O'))
    ]
    with pytest.raises(UserError, match='line 2: 1 column'):
        sentences('a O\n\u3000\nb O\n')


@pytest.mark.parametrize('letters', ['BMES', 'BLIU', 'BIES', 'BMEW'])
def test_other_letters_of_bioes(sentences, letters):
    begin, inside, end, single = {'BMES': 'BMES', 'BLIU': 'BILU', 'BIES': 'BIES', 'BMEW': 'BMEW'}[letters]
    (sentence,) = sentences(f'a {begin}-X\nb {inside}-X\nc {end}-X\nd {single}-Y\ne O\n')
    assert sentence[1] == ('B-X', 'I-X', 'E-X', 'S-Y', 'O')


@pytest.mark.parametrize(
    ('pattern', 'message'),
    [('(.+', 'is not a regular expression'), ('.+', 'has no group'), ('(x?).*', 'does not match a word')],
)
def test_a_bad_pattern_of_words_is_one_message(sentences, pattern, message):
    with pytest.raises(UserError, match=f'WORD_PATTERN = .*{message}'):
        sentences('a B-X\n', word_pattern=pattern)
