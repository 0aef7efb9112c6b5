"""Parity and odds of groups by their definitions in NumPy, and an audit of every kind of label."""

import numpy as np
import pytest

from palm_jax.errors import UserError

pytest.importorskip('fairlearn', reason='pip install "palm_jax[fairness]"')
from palm_jax.fairness.audit import compare
from palm_jax.fairness.groups import compare_groups
from tests.support.kinds import every_kind


def test_parity_odds_and_the_worst_group_by_hand():
    rng = np.random.default_rng(0)
    groups = rng.choice(['a', 'b', 'c'], 300)
    labels = rng.choice(['no', 'yes'], 300)
    wrong = rng.uniform(size=300) < np.where(groups == 'b', 0.4, 0.1)
    predicted = np.where(wrong, np.where(labels == 'yes', 'no', 'yes'), labels)
    found = compare_groups(
        'g', groups.tolist(), (~wrong).astype(float), 'accuracy',
        [frozenset([x]) for x in labels], [frozenset([x]) for x in predicted],
    )  # fmt: skip
    mean = lambda values, where=True: {g: values[(groups == g) & where].mean() for g in 'abc'}  # noqa: E731
    spread = lambda values: max(values.values()) - min(values.values())  # noqa: E731
    right, given = mean(~wrong), mean(predicted == 'yes')
    assert found.scores == pytest.approx(right) and found.worst == 'b' == min(right, key=right.get)
    assert found.shares['yes'] == pytest.approx(given) and sum(found.counts.values()) == 300
    gaps = {(gap.metric, gap.label): gap for gap in found.gaps}
    assert gaps['accuracy', ''].value == pytest.approx(spread(right))
    assert gaps['demographic parity', 'yes'].value == pytest.approx(spread(given))
    odds = [mean(predicted == 'yes', labels == label) for label in ('yes', 'no')]
    assert gaps['equalized odds', 'yes'].value == pytest.approx(max(map(spread, odds)))
    assert all(gap.low <= gap.high for gap in found.gaps)
    no = mean(predicted == 'no')
    ratios = [min(x.values()) / max(x.values()) for x in (given, no)]
    assert found.ratio in [pytest.approx(r) for r in ratios]
    with pytest.raises(UserError, match="--groups=g: every row has 'a'; two groups are needed"):
        compare_groups('g', ['a'] * 3, np.ones(3), 'accuracy')


def test_every_kind_of_label_is_audited(micro):
    texts = [f'text {i}' for i in range(24)]
    groups = {'gender': ['f', 'm'] * 12, 'age': ['old'] * 12 + ['young'] * 12}
    labels = {'classes': ['no', 'yes'] * 12, 'labels': ['a|b', ''] * 12, 'pairs': ['1.5', '2'] * 12}
    for name, model in every_kind(micro, *labels).items():
        inputs = [(t, t) for t in texts] if name == 'pairs' else texts
        found = compare(model, inputs, labels[name], groups)
        assert [g.column for g in found] == ['gender', 'age', 'gender × age']
        assert found[2].counts.keys() == {'f × old', 'f × young', 'm × old', 'm × young'}
        assert bool(found[0].shares) == (name != 'pairs')
        predicted = model.predict(inputs)
        if name == 'classes':
            right = np.array([next(iter(p)) == y for p, y in zip(predicted, labels[name], strict=True)])
            assert found[0].scores == pytest.approx({'f': right[::2].mean(), 'm': right[1::2].mean()})
    with pytest.raises(UserError, match=r'Row 2: the label .maybe. is not one of the model.*Known: '):
        compare(every_kind(micro, 'classes')['classes'], ['a', 'b'], ['no', 'maybe'], {'g': ['x', 'y']})
    with pytest.raises(UserError, match='compares the labels that groups are given; this model was trained to tag'):
        compare(every_kind(micro, 'tags')['tags'], ['a'], ['b'], {'g': ['x']})
