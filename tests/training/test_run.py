"""How often things happen."""

import pytest

from palm_jax.errors import UserError
from palm_jax.training.run import Periods


def test_something_is_due_when_any_period_divides_the_step():
    periods = Periods(log=3, evaluate=5, checkpoint=7)
    assert [step for step in range(1, 16) if periods.any_is_due(step)] == [3, 5, 6, 7, 9, 10, 12, 14, 15]


@pytest.mark.parametrize('name', ['log', 'evaluate', 'checkpoint', 'evaluate_batches', 'keep', 'keep_every'])
def test_a_period_below_one_is_refused_by_name(name):
    with pytest.raises(UserError, match=f'run.Periods.{name} is 0; it must be at least 1'):
        Periods(**{name: 0})
