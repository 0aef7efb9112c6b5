"""What of users' corrections is learned from."""

import pytest

from palm_jax.labels.label_set import LabelSet
from palm_jax.labels.number import Number
from palm_jax.labels.single_label import SingleLabel
from palm_jax.retuning.collect import Labelled, check, read_table, replay, split, write_table
from palm_jax.retuning.retune import decide


def row(text, label, *more):
    return Labelled((text, *more), label, 'r')


def test_rows_that_cannot_be_learned_from_are_counted():
    rows = [
        row('a', 'yes'), row('a ', 'yes'), row('b', 'no'), row('b', 'yes'), row(' ', 'yes'), row('c', 'maybe'),
        row('frozen  text', 'yes'), row('d', 'no'),
    ]  # fmt: skip
    found = check(rows, SingleLabel(), ('no', 'yes'), [('frozen text',)])
    assert [r.texts[0] for r in found.rows] == ['a', 'd']
    assert found.dropped == {
        'no text': 1, 'a label that the model does not have': 1, 'among the frozen examples': 1,
        'several labels for one text': 2, 'repeated': 1,
    }  # fmt: skip
    found = check([row('a', 1.5), row('b', 'x'), row('c', '2')], Number(), (), [])
    assert [r.texts[0] for r in found.rows] == ['a', 'c'] and found.dropped == {'a label that cannot be encoded': 1}
    found = check([row('a', ['x']), row('b', []), row('c', 'x|z')], LabelSet(), ('x', 'y'), [])
    assert [r.texts[0] for r in found.rows] == ['a', 'b']


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


def test_tables_are_read_as_they_were_written(tmp_path):
    rows = [row('a\u2028b', 'yes', 'c "d"'), row('e', 'no', '')]
    write_table(tmp_path / 't.jsonl', rows, ('x', 'y'), 'z')
    assert [(r.texts, r.label) for r in read_table(tmp_path / 't.jsonl', ('x', 'y'), 'z')] == [
        (r.texts, r.label) for r in rows
    ]


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
