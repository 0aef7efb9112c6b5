"""Values of columns: a text is a text, one label is not a list, and no number is true."""

import pytest

from palm_jax.data.readers import columns
from palm_jax.data.readers.row import Row
from palm_jax.errors import UserError


def value(read_column, given, is_line=False):
    return read_column(Row({'c': given}, 'f, line 3', is_line), 'c', 'TEXT_COLUMN')


def test_a_text_is_a_text():
    for given in ('null', 'NA', 'nan', 'None', 'true', '7', ' a '):
        assert value(columns.text, given) == given
    for given, message in (
        (7, 'a number'),
        (True, 'true or false'),
        (['a'], r'a list \(\["a"\]\)'),
        ({'a': 1}, 'an object'),
    ):
        with pytest.raises(UserError, match=f"f, line 3: the column 'c' holds {message}.*it must hold a text"):
            value(columns.text, given)
    for given in (None, '', ' \n'):
        with pytest.raises(UserError, match="f, line 3: the column 'c' is empty"):
            value(columns.text, given)
    assert columns.text(Row({'text': 'a'}, 'f', is_line=True), 'sentence', 'TEXT_COLUMN') == 'a'


def test_one_label_is_not_a_list():
    assert [value(columns.label, given) for given in (1, 2.5, True, ' x ', '[deleted]', '[1]')] == [
        '1',
        '2.5',
        'true',
        'x',
        '[deleted]',
        '[1]',
    ]
    for given in (['x'], ['x', 'y'], {'a': 1}, '["x", "y"]', "['x']", "('x', 'y')", "['x' 'y']"):
        with pytest.raises(UserError, match=r'it must hold one label. For several labels .*multilabel.gin'):
            value(columns.label, given)


def test_labels_are_a_list_or_a_text():
    assert value(columns.labels, 'x|y') == 'x|y' and value(columns.labels, None) == '' == value(columns.labels, '')
    assert value(columns.labels, ['x', 'a|b', 3]) == ('x', 'a|b', '3') and value(columns.labels, []) == ()
    for given in ('["x", "y"]', "['x', 'y']", "['x' 'y']", '["x"\n "y"]', "('x', 'y')", "{'y', 'x'}", '["x", "y",]'):
        assert value(columns.labels, given) == ('x', 'y')
    assert value(columns.labels, '[1, 20]') == ('1', '20') and value(columns.labels, '("it\'s",)') == ("it's",)
    assert value(columns.labels, '[]') == value(columns.labels, '()') == ()
    for name in ('(a)', '[deleted]', '{x}', '(1)', '[', "['x'", '{"a": 1}', '[["x"]]', '(sic) [1'):
        assert value(columns.labels, name) == name
    for given in ({'x': 1}, ['x', ['y']], ['x', None]):
        with pytest.raises(UserError, match='it must hold labels'):
            value(columns.labels, given)


def test_a_number_is_not_true_or_a_list():
    assert [value(columns.number, given) for given in (7, -2.5, ' 3 ')] == ['7', '-2.5', '3']
    for given in (True, [1], {'a': 1}):
        with pytest.raises(UserError, match='it must hold a number'):
            value(columns.number, given)
