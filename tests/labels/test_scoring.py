"""How right a single prediction is."""

import pytest

from palm_jax.labels.label_set import LabelSet
from palm_jax.labels.number import Number
from palm_jax.labels.scoring import score
from palm_jax.labels.single_label import SingleLabel


@pytest.mark.parametrize(
    'kind, predicted, label, expected',
    [
        (SingleLabel(), 'a', 'a', 1.0),
        (SingleLabel(), 'a', 'b', 0.0),
        (LabelSet(), ['b', 'a'], ['a', 'b'], 1.0),
        (LabelSet(), ['a'], 'a|b', 0.0),
        (LabelSet(), ['a', 'b'], 'b|a', 1.0),
        (LabelSet(), [], [], 1.0),
        (Number(), 2.5, '4', -1.5),
        (Number(), -1, -1.0, 0.0),
    ],
)
def test_scores(kind, predicted, label, expected):
    assert score(kind, predicted, label) == expected
