"""What of users' corrections is learned from."""

import pytest

from palm_jax.retuning.collect import Labelled, check, replay, split
from palm_jax.retuning.forms import Labels
from palm_jax.retuning.retune import decide
from tests.support.kinds import every_kind


def row(text, label, *more):
    return Labelled((text, *more), label, 'r')


def test_rows_that_cannot_be_learned_from_are_counted(micro):
    models = every_kind(micro, 'classes', 'labels', 'pairs')
    problem_of = {name: Labels(model).problem for name, model in models.items()}
    rows = [
        row('a', 'yes'), row('a ', 'yes'), row('b', 'no'), row('b', 'yes'), row(' ', 'yes'), row('c', 'maybe'),
        row('frozen  text', 'yes'), row('d', 'no'), Labelled((), 'yes', 'r'),
    ]  # fmt: skip
    found = check(rows, problem_of['classes'], [('frozen text',)])
    assert [r.texts[0] for r in found.rows] == ['a', 'd']
    assert found.dropped == {
        'no text': 1, 'a label that the model does not have': 1, 'among the frozen examples': 1,
        'several labels for one text': 2, 'repeated': 1, 'asked in another form than the model reads': 1,
    }  # fmt: skip
    found = check([row('a', 1.5), row('b', 'x'), row('c', '2')], problem_of['pairs'], [])
    assert [r.texts[0] for r in found.rows] == ['a', 'c'] and found.dropped == {'a label that cannot be encoded': 1}
    found = check([row('c', ['a']), row('d', []), row('e', 'a|z')], problem_of['labels'], [])
    assert [r.texts[0] for r in found.rows] == ['c', 'd']
    newest = check([row('a', 'first'), row('a', 'second'), row('a', 'second')], lambda _: None, [], keeps_last=True)
    assert [r.label for r in newest.rows] == ['second'] and newest.dropped == {'repeated': 2}


def test_a_text_is_always_on_the_same_side_and_old_rows_are_replayed():
    rows = [row(f'text {i}', 'yes') for i in range(400)]
    learned, fresh = split(rows, 4)
    assert len(learned) + len(fresh) == 400 and 70 < len(fresh) < 130
    assert split(rows[:10], 4)[1] == [r for r in rows[:10] if r in fresh]
    chosen = replay(rows, 20, 2.0, [('text 1',), ('text 2',)], seed=0)
    assert len(chosen) == 40 == len({r.texts for r in chosen}) and not {('text 1',), ('text 2',)} & {
        r.texts for r in chosen
    }
    assert chosen == replay(rows, 20, 2.0, [('text 1',), ('text 2',)], seed=0)
    assert replay(rows[:3], 20, 2.0, [], 0) == rows[:3] and replay(rows, 20, 0.0, [], 0) == []


@pytest.mark.parametrize('frozen, fresh, expected', [
    ((True, -0.1), (True, 0.3), 'rejected'),
    ((False, -0.1), (True, 0.3), 'promoted'),
    ((True, 0.1), (False, 0.3), 'rejected'),
    ((False, 0.0), (False, 0.0), 'rejected'),
    ((False, 0.0), (True, -0.2), 'rejected'),
])  # fmt: skip
def test_a_challenger_must_win(frozen, fresh, expected):
    as_json = lambda pair: {'differ': pair[0], 'gain': pair[1]}  # noqa: E731
    assert decide(as_json(frozen), as_json(fresh))[0] == expected
