"""Rules about labels: their text form, and what they say about texts, label sets and tags."""

import numpy as np
import pytest

from palm_jax.errors import UserError
from palm_jax.labels import rules
from palm_jax.labels.rule_text import parse, without_comment
from palm_jax.labels.rules import START, TextFunction, TransitionFunction

NAMES = ('a', 'b b', 'c')
TAGS = ('O', 'B-LOC', 'I-LOC', 'B-PER', 'I-PER')


def rule(line):
    return parse(line, 'rules.txt, line 1')


def costs(line, text, word=None, names=NAMES):
    of_rule = rule(line)
    of_rule.check(names, word is not None, True)
    (row,) = rules.penalties([of_rule], [(text, word)], rules.states_of([of_rule], names, True)[0])
    return row.tolist()


def test_conditions_on_the_text_decide_whether_a_rule_applies():
    line = 'if text contains "Refund" then label in {a, "b b"}'
    assert costs(line, 'my REFUNDS please') == [0, 0, 1] and costs(line, 'hello') == [0, 0, 0]
    line = r'if text has word "pin" and not text matches "\d{4}" then label is not c weight 0.5'
    assert costs(line, 'a Pin.') == [0, 0, 0.5]
    assert costs(line, 'pinned') == costs(line, 'pin 1234') == [0, 0, 0]
    assert costs('if text contains \'say "hi"\' then label not in {a, c}', 'we say "hi" now') == [1, 0, 1]


def test_keywords_are_read_in_upper_and_lower_case():
    assert costs('If Text CONTAINS "x" Then Label Is Not a WEIGHT 2', 'x') == [2, 0, 0]
    assert costs('if text contains "“x”" then label is a', 'a “x”') == [0, 1, 1]  # curly marks inside of straight ones


def test_of_label_sets_all_combinations_are_weighed():
    found = [rule('if label is a then label in {c}'), rule('if text contains "x" then label in {a, c}')]
    states, ids = rules.states_of(found, NAMES, False)
    assert ids == [0, 2] and states == [frozenset(), frozenset('a'), frozenset('c'), frozenset('ac')]
    np.testing.assert_array_equal(
        rules.penalties(found, [('y', None), ('x', None)], states), [[0, 1, 0, 0], [1, 1, 0, 0]]
    )
    with pytest.raises(UserError, match='about 11 labels; of label sets, they may be about 10'):
        rules.states_of([TextFunction(lambda text, labels: 1.0)], [f'{i}' for i in range(11)], False)


def test_x_stands_for_every_type_of_tag():
    found = rule('I-X must follow B-X or I-X')
    found.check(TAGS, True, True)
    penalties = rules.transition_penalties([found], TAGS)
    for row, before in enumerate((*TAGS, START)):
        for column, tag in enumerate(TAGS):
            broken = tag.startswith('I-') and before not in (tag, f'B{tag[1:]}')
            assert penalties[row, column] == broken, (before, tag)
    never = rules.transition_penalties([rule('tag B-PER must not follow start or I-X weight 2')], TAGS)
    assert never[:, 3].tolist() == [0, 0, 2, 0, 2, 2] and never.sum() == 6


def test_rules_of_words_see_the_word_and_its_text():
    line = r'if word matches "^\d+$" and text contains "room" then tag is O'
    assert costs(line, 'room 12', '12', TAGS) == [0, 1, 1, 1, 1] and costs(line, 'room 12', 'room', TAGS) == [0] * 5


def test_functions_are_rules_with_truth_values():
    def longer(text, label):
        return 0.25 if label == 'a' and len(text) > 3 else True

    states = [frozenset([name]) for name in NAMES]
    penalties = rules.penalties([TextFunction(longer, weight=2.0)], [('ab', None), ('abcd', None)], states)
    np.testing.assert_allclose(penalties, [[0, 0, 0], [1.5, 0, 0]])
    assert TextFunction(longer).name.endswith('longer')
    between = rules.transition_penalties([TransitionFunction(lambda before, tag: before != tag)], TAGS)
    np.testing.assert_array_equal(between, np.eye(6, 5))
    with pytest.raises(UserError, match=r"\('abcd', 'a'\) is 2; it must be a truth value from 0 to 1"):
        TextFunction(lambda text, label: 2).truth('abcd', None, states)
    with pytest.raises(UserError, match=r"^TRANSITION_RULES: .*\('O', 'O'\) is 3;"):
        TransitionFunction(lambda before, tag: 3).truth('O', 'O', TAGS)
    with pytest.raises(UserError, match=r'^TRANSITION_RULES: .* is for gin/heads/tagging\.gin'):
        TransitionFunction(lambda before, tag: True).check(NAMES, False, True)
    with pytest.raises(UserError, match=r'raised ZeroDivisionError'):
        TextFunction(lambda text, label: 1 / 0).truth('', None, states)


@pytest.mark.parametrize(
    ('line', 'message'),
    [
        ('if text contains "a" label is b', 'after `if text contains "a"` there must be `then`, not `label is b`'),
        ('if text contains a then label is b', 'there must be a text in quotation marks, not `a then'),
        ('if text contains "a then label is b', 'a quotation mark is not closed: "a then'),
        ('if text matches "(" then label is b', r"'\(' is not a regular expression"),
        ('if text contains "a" then label in {b c}', 'after .* there must be `,` or `}`, not `c}`'),
        ('if text contains "a" then label is b weight -1', "the weight is '-1'; it must be a number above 0"),
        ('if text contains "a" then label is b or c', 'there must be the end of the line, not `or c`'),
        ('I-X follows B-X', 'after `I-X` there must be `must`'),
        ('if text contains “a” then label is b', """quotation marks must be straight, " or ': “a” then"""),
        ('if text contains "a” then label is b', 'quotation marks must be straight'),
        ('', 'at the beginning there must be `if` or a tag, not the end'),
    ],
)  # fmt: skip
def test_what_is_no_rule_is_refused_where_it_ceases_to_be_one(line, message):
    with pytest.raises(UserError, match=message) as error:
        rule(line)
    assert str(error.value).startswith('rules.txt, line 1: ')


@pytest.mark.parametrize(
    ('line', 'names', 'message'),
    [
        ('if text contains "a" then label is aa', NAMES, r"line 1: there is no label 'aa'.* Labels: a, b b, c\."),
        ('if word contains "a" then label is a', NAMES, 'line 1: a condition on a word is for gin/heads/tagging.gin'),
        ('I-X must follow B-X', NAMES, 'line 1: a rule about what a tag follows is for gin/heads/tagging.gin'),
        ('if label is a then label is c', NAMES, 'is for label sets .* a text has one label. .* then label is not a$'),
        ('if label in {O} then tag is B-LOC', TAGS, 'is for label sets .* a word has one tag'),
        ('I-X must follow B-PRE', TAGS, "there is no label 'B-PRE'. Did you mean B-PER?"),
    ],
)
def test_rules_that_do_not_fit_the_task_are_refused(line, names, message):
    with pytest.raises(UserError, match=message):
        rule(line).check(names, names == TAGS, True)


def test_comments_begin_outside_quotation_marks():
    line = 'if text contains "#1" then label is a '
    assert without_comment(line + '# why') == line and without_comment('# all') == '' and without_comment(line) == line
