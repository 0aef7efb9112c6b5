"""The worst group of the held-out examples, and the column that says which group a row is of."""

import numpy as np
import pytest

from palm_jax.data.supervised.groups import GroupIds, group_sizes
from palm_jax.data.supervised.labelled_text import LabelledTable, LabelledText
from palm_jax.errors import UserError
from palm_jax.labels.number import Number
from palm_jax.labels.single_label import SingleLabel
from palm_jax.reports.groups import metric_of, with_groups
from palm_jax.reports.labels import HeadReporter
from palm_jax.reports.report import Measurements


def measured(predictions):
    return Measurements({'loss': 1.0, 'accuracy': 0.5}, predictions=predictions, tables={'Others': [('a',)]})


def test_the_worst_group_is_a_metric():
    rng = np.random.default_rng(0)
    groups = rng.choice(['f', 'm', None], 60, p=[0.4, 0.4, 0.2]).tolist()
    rows = [{'label': 'x', 'predicted': 'xy'[int(rng.uniform() < (0.6 if g == 'm' else 0.2))]} for g in groups]
    found = with_groups(measured(rows), SingleLabel(), groups)
    right = {
        g: np.mean([r['predicted'] == 'x' for r, h in zip(rows, groups, strict=True) if h == g]) for g in ('f', 'm')
    }
    assert found.metrics['worst_group_accuracy'] == pytest.approx(right['m']) and right['m'] < right['f']
    assert [row[0] for row in found.tables['Groups']] == ['group', 'f', 'm', '(none)'] and 'Others' in found.tables
    assert found.tables['Groups'][1][2] == f'{right["f"]:.4f}' and 'worst group' in found.lines[-1]
    numbers = [{'label': 1.0, 'predicted': 1.5 if g == 'f' else 3.0} for g in groups]
    assert with_groups(measured(numbers), Number(), groups).metrics[metric_of(Number())] == pytest.approx(2.0)
    assert with_groups(measured(rows), SingleLabel(), [None] * 60) == measured(rows)


def table(tmp_path, **options):
    rows = [(f'text {i}', 'ab'[i % 2], ('f', 'm', '')[i % 3], 'old' if i < 9 else 'young') for i in range(40)]
    (tmp_path / 'table.csv').write_text('text,label,sex,age\n' + ''.join(','.join(row) + '\n' for row in rows))
    return LabelledTable(str(tmp_path / 'table.csv'), **options), rows


def test_groups_are_those_of_columns(tmp_path):
    labelled, rows = table(tmp_path, group_column=['sex', 'age'])
    by_text = {text: f'{sex} × {age}' if sex else None for text, _, sex, age in rows}
    for split in ('train', 'validation'):
        assert all(example.group == by_text[example.text] for example in labelled.examples(split))
    data = LabelledText(labelled, {'inputs': 16}, 'bytes', further=[GroupIds()])
    sizes = group_sizes(labelled)
    assert list(sizes) == sorted(sizes) == ['f × old', 'f × young', 'm × old', 'm × young']
    found = data.encode('train')['groups']
    names = [None, *sizes]
    assert [names[i] for i in found] == [example.group for example in data.examples('train')]
    assert [int((found == i).sum()) for i in range(1, 5)] == list(sizes.values())
    assert 'worst_group_accuracy' in HeadReporter().metric_names(data)
    plain = LabelledText(table(tmp_path)[0], {'inputs': 16}, 'bytes')
    assert 'worst_group_accuracy' not in HeadReporter().metric_names(plain)


def test_a_column_that_does_not_exist_is_named(tmp_path):
    with pytest.raises(UserError, match=r"no column 'sxe'. Did you mean sex"):
        table(tmp_path, group_column='sxe')[0].examples('train')
    assert group_sizes(table(tmp_path)[0]) == {}
