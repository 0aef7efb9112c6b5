"""When a run is evaluated, on how much, and what follows from it."""

import types

import jax
import numpy as np
import pytest

from palm_jax.errors import UserError
from palm_jax.partitioning import MeshLayout
from palm_jax.training.batch_sizes import BatchSizes
from palm_jax.training.best import BestMetric
from palm_jax.training.evaluate import HeldOut
from palm_jax.training.evaluations import Evaluations
from palm_jax.training.metrics import Ratio
from palm_jax.training.run import Periods

PERIODS = Periods(evaluate=4, evaluate_batches=2)


class Data:
    """Six held-out batches, of which number n has the loss n."""

    num_validation_sequences = 24
    passes = 0

    def validation(self, size):
        self.passes += 1
        return ({'x': np.full((size, 1), n, np.float32)} for n in range(6))

    def validation_by_length(self, size):
        return ((np.arange(size) + n * size, batch) for n, batch in enumerate(self.validation(size)))


class Kept:
    """A best checkpoint that saves no arrays."""

    def __init__(self, metric, patience=None, step=None):
        self._best, self.step, self.values = BestMetric(metric, patience), step, []
        self.metric = metric

    def check(self, names):
        if self.metric not in names:
            raise UserError(f'no such metric: {sorted(names)}')

    def offer(self, state, step, values):
        if self.metric not in values:
            raise UserError('no such metric')
        if self._best.is_better(values[self.metric], self.values[-1] if self.values else None):
            self.step = step
            self.values.append(values[self.metric])

    def has_stalled(self, step):
        patience = self._best.patience
        return patience is not None and self.step is not None and step - self.step >= 4 * patience


class Reporter:
    """Measures the number that a state is."""

    def metric_names(self, data):
        assert isinstance(data, Data)
        return ('macro_f1',)

    def measure(self, inputs):
        assert inputs.batch_size in (2, 4)
        return types.SimpleNamespace(metrics={'macro_f1': inputs.params, 'loss': inputs.evaluate()['loss'].value()})


def evaluations(best=None, first_step=0, reporter=Reporter()):
    mesh = MeshLayout().mesh(jax.devices()[:1])
    eval_step = lambda state, batch: {'loss': Ratio(batch['x'].sum(), np.float32(batch['x'].size))}  # noqa: E731
    held_out = HeldOut(eval_step, None, None, Data(), mesh, BatchSizes.of(((0, 2), (5, 4))))
    return Evaluations(held_out, PERIODS, first_step, 10, best, reporter)


def state(number):
    return types.SimpleNamespace(all_params=number)


def test_the_last_step_is_evaluated_where_there_is_a_best_metric():
    assert [step for step in range(1, 11) if evaluations().is_due(step)] == [4, 8]
    assert [step for step in range(1, 11) if evaluations(Kept('loss')).is_due(step)] == [4, 8, 10]


def test_a_choice_reads_the_whole_held_out_part():
    assert evaluations().measure(state(0), 4) == {'loss': 0.5}
    assert evaluations(Kept('loss')).measure(state(0), 4) == {'loss': 2.5}


def test_the_reporter_measures_only_for_a_metric_that_the_loss_lacks():
    assert evaluations(Kept('macro_f1')).measure(state(0.75), 8) == {'loss': 2.5, 'macro_f1': 0.75}


def test_a_metric_of_the_report_takes_one_pass_once_it_is_known():
    run = evaluations(Kept('macro_f1'))
    run.measure(state(0.5), 4)
    before = run._held_out.data.passes
    assert run.measure(state(0.75), 8) == {'loss': 2.5, 'macro_f1': 0.75}
    assert run._held_out.data.passes == before + 1


def test_patience_ends_the_run_and_says_since_when():
    run = evaluations(Kept('macro_f1', patience=1))
    for step, value in ((4, 0.5), (8, 0.4)):
        assert not run.stalled
        run.offer(state(value), step, {'macro_f1': value})
    assert run.stalled
    assert run.stall_message(8) == 'no better macro_f1 since step 4: the run ends at step 8'


def test_a_run_without_a_best_metric_keeps_nothing_and_never_stalls():
    run = evaluations()
    run.offer(state(0), 8, {'loss': 2.0})
    assert not run.stalled


def test_a_resumed_run_that_has_stalled_ends_at_once():
    assert evaluations(Kept('loss', patience=1, step=4), first_step=8).stalled
    assert not evaluations(Kept('loss', patience=1, step=4), first_step=7).stalled


def test_a_metric_that_nothing_computes_is_refused():
    with pytest.raises(UserError, match='no such metric'):
        evaluations(Kept('macro_f')).offer(state(0), 4, {'loss': 1.0})


def test_a_misspelt_metric_is_found_before_the_first_step():
    for metric in ('loss', 'macro_f1'):
        evaluations(Kept(metric)).check_metric(0.0)
    evaluations().check_metric(0.0)
    with pytest.raises(UserError, match=r"no such metric: \['loss', 'macro_f1'\]"):
        evaluations(Kept('macro_f')).check_metric(0.0)
    evaluations(Kept('anything'), reporter=object()).check_metric(0.0)  # a reporter that does not name its metrics
