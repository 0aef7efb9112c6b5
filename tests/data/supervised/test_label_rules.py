"""Data with rules: what they say about each training row, whatever its place in the batch."""

import numpy as np
import pytest

from palm_jax.data.supervised.label_rules import WithRules
from palm_jax.data.supervised.labelled_text import LabelledTable, LabelledText
from palm_jax.data.supervised.tagged_text import TaggedTable, TaggedText
from palm_jax.errors import UserError
from palm_jax.labels.label_set import LabelSet
from palm_jax.labels.number import Number

NAMES = ('a', 'b', 'c')


def texts(folder, **options):
    path = folder / 'table.csv'
    path.write_text('text,label\n' + ''.join(f'text {i},{NAMES[i % 3]}\n' for i in range(30)))
    return LabelledText(LabelledTable(str(path), **options), {'inputs': 20}, 'bytes')


def rules_in(folder, *lines):
    (folder / 'rules.txt').write_text('# what we know\n\n' + '\n'.join(lines))
    return str(folder / 'rules.txt')


def odd(text, label):
    return label != 'c' or int(text.split()[-1]) % 2


def test_every_row_has_what_the_rules_say_about_it(tmp_path, caplog):
    lines = ['if text contains "1" then label in {a, b} weight 2', 'if text contains "no" then label is a  # never']
    plain = texts(tmp_path)
    data = WithRules(texts(tmp_path), rules_in(tmp_path, *lines), [[odd, 1.0]])
    batch, same = data.batch(3, 40), plain.batch(3, 40)
    for name, values in same.items():
        np.testing.assert_array_equal(batch[name], values)
    for row in range(40):
        text = data.vocabulary.decode(batch['decoder_input_tokens'][row][batch['decoder_segment_ids'][row] > 0])
        number = int(''.join(filter(str.isdigit, text)))
        expected = 2.0 * ('1' in f'{number}') + (number % 2 == 0)
        assert batch['rule_penalties'][row].tolist() == [0, 0, expected], text
    assert data.blank().keys() == batch.keys() and 'rule_penalties' not in next(data.validation(4))
    assert data.identity()['train'] != plain.identity()['train']
    assert data.identity()['validation'] == plain.identity()['validation']
    broken = sum(('1' in e.text or int(e.text[5:]) % 2 == 0) and e.label == 'c' for e in data.examples('train'))
    assert (
        f'rules      3 rules; the labels of {broken} of {len(data.examples("train"))} training texts' in data.describe()
    )
    assert 'the rule `if text contains "no" then label is a` applies to no training text' in caplog.text


def test_label_sets_have_their_combinations(tmp_path):
    data = WithRules(texts(tmp_path, kind=LabelSet()), rules_in(tmp_path, 'if label is a then label is c'))
    batch = data.batch(0, 4)
    np.testing.assert_array_equal(batch['rule_labels'], [[0, 2]] * 4)
    np.testing.assert_array_equal(batch['rule_penalties'], [[0, 1, 0, 0]] * 4)


def test_sentences_have_penalties_at_their_words(tmp_path):
    (tmp_path / 'train.conll').write_text(''.join(f'Ann{i}\tB-PER\nin\tO\nRome\tB-LOC\n\n' for i in range(12)))
    lines = ['I-X must follow B-X or I-X', 'if word contains "ann" then tag is not B-LOC weight 3']
    tagged = TaggedText(TaggedTable(str(tmp_path / 'train.conll')), {'inputs': 12}, 'bytes')
    data = WithRules(tagged, rules_in(tmp_path, *lines))
    batch = data.batch(0, 3)
    assert data.labels == ('O', 'B-LOC', 'I-LOC', 'B-PER', 'I-PER')
    np.testing.assert_array_equal(batch['rule_words'], batch['label_weights'] > 0)
    assert batch['rule_words'].sum(axis=1).max() == 2  # Rome does not fit
    assert batch['rule_transitions'].shape == (3, 6, 5) and batch['rule_transitions'][0].sum() == 8
    assert batch['rule_penalties'].sum(axis=(1, 2)).tolist() == [3, 3, 3]
    assert (batch['rule_penalties'][..., 1].argmax(axis=1) == batch['rule_words'].argmax(axis=1)).all()
    _, broken = data.judge(data.views(data.examples('train')[:2]), [['I-PER', 'O'], ['B-LOC', 'I-LOC']])
    assert broken.tolist() == [[True, False], [False, True]]
    only = WithRules(tagged, rules_in(tmp_path, lines[0]))
    assert 'rule_penalties' not in only.batch(0, 3) and only.identity()['train'] != tagged.identity()['train']


def test_texts_of_which_no_label_keeps_the_rules_are_counted(tmp_path, caplog):
    WithRules(texts(tmp_path), functions=[odd]).describe()
    assert 'keeps the rules' not in caplog.text
    data = WithRules(texts(tmp_path), functions=[lambda text, label: int(text.split()[-1]) % 2])
    data.describe()
    examples = data.examples('train')
    number = sum(int(e.text.split()[-1]) % 2 == 0 for e in examples)
    assert f'no label keeps the rules in {number} of {len(examples)} training texts; the semantic loss' in caplog.text
    sets = (
        'if label is a then label is c',
        'if label is c then label is not a',
        'if text contains "t" then label is a',
    )
    caplog.clear()
    WithRules(texts(tmp_path, kind=LabelSet()), rules_in(tmp_path, *sets)).describe()
    assert f'no label keeps the rules in {len(examples)} of {len(examples)} training texts' in caplog.text


def test_sentences_of_which_no_tags_keep_the_rules_are_counted(tmp_path, caplog):
    (tmp_path / 'train.conll').write_text(''.join(f'Ann{i}\tB-PER\nin\tO\n\n' for i in range(12)))
    tagged = TaggedText(TaggedTable(str(tmp_path / 'train.conll')), {'inputs': 12}, 'bytes')
    size = len(tagged.examples('train'))
    first = 'if word contains "ann" then tag is B-PER'
    WithRules(tagged, rules_in(tmp_path, first, 'O must follow B-PER')).describe()
    assert 'no tags' not in caplog.text
    WithRules(tagged, rules_in(tmp_path, first, 'B-PER must not follow start')).describe()
    assert f'no tags keep the rules in {size} of {size} training texts' in caplog.text
    caplog.clear()
    only_o = 'if word contains "in" then tag is O'
    WithRules(tagged, rules_in(tmp_path, first, only_o, 'O must not follow B-PER')).describe()
    assert f'no tags keep the rules in {size} of {size} training texts' in caplog.text


@pytest.mark.parametrize(
    ('rule', 'message'),
    [
        ((2.0, odd), r': \(2\.0, odd\): the function comes first: \(function, weight'),
        ((), r': \(\): the function comes first'),
        ((odd, 2.0, ['a'], 1), r'\(odd, 2\.0, .*\) has 4 parts; it may have [23]: \(function, weight'),
        ((odd, 'a'), r"the weight is 'a'; it must be a number above 0"),
        ((odd, ['a']), r"the weight is \['a'\]; it must be a number above 0"),
        ((odd, 0), 'the weight is 0; it must be a number above 0'),
    ],
)
def test_tuples_that_are_no_rules_are_refused(tmp_path, rule, message):
    with pytest.raises(UserError, match=f'^RULES.*{message}'):
        WithRules(texts(tmp_path), functions=[rule]).batch(0, 1)
    with pytest.raises(UserError, match=f'^TRANSITION_RULES.*{message}'):
        WithRules(texts(tmp_path), transitions=[rule]).batch(0, 1)


def test_what_has_no_rules_or_no_labels_is_refused(tmp_path):
    with pytest.raises(UserError, match=r'There are no rules: name a file, --gin\.RULE_FILES=rules\.txt'):
        WithRules(texts(tmp_path)).batch(0, 1)
    with pytest.raises(UserError, match=r'^RULE_FILES: .*rules\.txt has no rules'):
        WithRules(texts(tmp_path), rules_in(tmp_path), [odd]).batch(0, 1)
    with pytest.raises(
        UserError, match=r'^RULES: 2\.0 is not a function; RULES is a list of functions or of \(function'
    ):
        WithRules(texts(tmp_path), functions=(odd, 2.0)).batch(0, 1)
    with pytest.raises(UserError, match=r"^RULES: \(odd, 2, 'a'\): the labels are 'a'; they must be a list of texts"):
        WithRules(texts(tmp_path), functions=[(odd, 2, 'a')]).batch(0, 1)
    with pytest.raises(UserError, match=r"rules\.txt, line 4: there is no label 'd'"):
        lines = ('if text contains "x" then label is a', 'if text contains "x" then label is d')
        WithRules(texts(tmp_path), rules_in(tmp_path, *lines)).batch(0, 1)
    with pytest.raises(UserError, match='the labels of this task are Number'):
        WithRules(texts(tmp_path, kind=Number()), functions=[odd]).batch(0, 1)
    with pytest.raises(UserError, match='this run predicts none: add gin/heads/classification'):
        WithRules(object(), functions=[odd]).batch(0, 1)
