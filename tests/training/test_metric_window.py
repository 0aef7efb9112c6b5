"""The metrics between two log lines, wherever a checkpoint cuts them."""

import numpy as np

from palm_jax.training.metric_window import MetricWindow
from palm_jax.training.metrics import Ratio


def metrics(seed):
    total, count = np.random.default_rng(seed).random(2).astype(np.float32)
    return {'loss': Ratio(total, count)}


def numbers(sums):
    return {name: (ratio.total, ratio.count) for name, ratio in sums.items()}


def window_of(seeds, sums=None):
    window = MetricWindow(sums)
    for seed in seeds:
        window.add(metrics(seed))
    return window


def test_sums_are_the_same_bits_wherever_the_window_is_cut():
    whole = numbers(window_of(range(9)).sums())
    for cut in range(10):
        kept = window_of(range(cut)).sums()
        restored = None if kept is None else {name: Ratio(*pair) for name, pair in numbers(kept).items()}
        assert numbers(window_of(range(cut, 9), restored).sums()) == whole


def test_sums_leave_the_window_as_it_is_and_take_empties_it():
    window = window_of([1, 2])
    assert numbers(window.sums()) == numbers(window.sums())
    window.add(metrics(3))
    assert window.take() == {'loss': window_of([1, 2, 3]).sums()['loss'].value()}
    assert window.sums() is None


def test_reset_forgets_what_was_added():
    window = window_of([1, 2])
    window.reset(window_of([5]).sums())
    window.add(metrics(6))
    assert numbers(window.sums()) == numbers(window_of([5, 6]).sums())
    window.reset(None)
    assert window.sums() is None


def test_means_of_nothing_are_left_out_but_for_the_loss():
    window = MetricWindow()
    window.add({'loss': Ratio(3.0, 2.0), 'confident': Ratio(0.0, 4.0), 'pseudo_accuracy': Ratio(0.0, 0.0)})
    assert window.take() == {'loss': 1.5, 'confident': 0.0}
    window.add({'loss': Ratio(0.0, 0.0)})
    assert np.isnan(window.take()['loss'])
