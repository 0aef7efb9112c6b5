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
    whole = numbers(window_of(range(9)).take())
    for cut in range(10):
        kept = window_of(range(cut)).sums()
        restored = None if kept is None else {name: Ratio(*pair) for name, pair in numbers(kept).items()}
        assert numbers(window_of(range(cut, 9), restored).take()) == whole


def test_sums_leave_the_window_as_it_is_and_take_empties_it():
    window = window_of([1, 2])
    assert numbers(window.sums()) == numbers(window.sums())
    window.add(metrics(3))
    assert numbers(window.take()) == numbers(window_of([1, 2, 3]).sums())
    assert window.sums() is None


def test_reset_forgets_what_was_added():
    window = window_of([1, 2])
    window.reset(window_of([5]).sums())
    window.add(metrics(6))
    assert numbers(window.sums()) == numbers(window_of([5, 6]).sums())
    window.reset(None)
    assert window.sums() is None
