"""Which values are spikes, and which batches are skipped then."""

import dataclasses

import numpy as np

from palm_jax.training.batch_sizes import BatchSizes
from palm_jax.training.metrics import Ratio
from palm_jax.training.spikes import SpikeGuard, SpikeRule

RULE = SpikeRule(
    window=6, loss_threshold=8.0, gradient_threshold=None, rewind_steps=4, skip_steps_after=2, max_rollbacks=4
)


def metrics(loss, norm=1.0):
    return {'loss': Ratio(np.float32(loss), np.float32(1)), 'gradient_norm': Ratio(np.float32(norm), np.float32(1))}


def judged(guard, values):
    for step, value in enumerate(values):
        guard.add(step, metrics(*value) if isinstance(value, tuple) else metrics(value))
    return guard.first_spike(everything=True)


def test_what_is_a_spike(tmp_path):
    usual = [3.0, 2.9, 3.1, 2.8, 3.0, 2.9]
    assert judged(SpikeGuard(RULE, tmp_path), [*usual, 3.3]) is None
    assert judged(SpikeGuard(RULE, tmp_path), [*usual, 1.0]) is None  # a fall is none
    assert judged(SpikeGuard(RULE, tmp_path), [*usual, 6.0]) == (6, 'loss is 6, where 2.95 ± 0.074 is usual')
    assert judged(SpikeGuard(RULE, tmp_path), [3.0, 9.0]) is None  # too little is known
    assert judged(SpikeGuard(RULE, tmp_path), [3.0, float('inf')]) == (1, 'loss is inf')
    norms = dataclasses.replace(RULE, loss_threshold=None, gradient_threshold=5.0)
    of_norm = [(3.0, 1.0), (3.0, 1.1), (9.0, 0.9), (3.0, 1.0), (3.0, 1.1), (3.0, 1.0), (3.0, 40.0)]
    assert judged(SpikeGuard(norms, tmp_path), of_norm)[0] == 6
    assert judged(SpikeGuard(None, tmp_path), [float('nan')]) is None
    watch = SpikeGuard(RULE, tmp_path)
    watch.add(0, metrics(float('nan')))
    assert watch.first_spike(everything=False) is None and watch.first_spike(everything=True) == (0, 'loss is nan')


def test_skips_move_the_data_and_nothing_is_read_twice(tmp_path):
    guard, sizes = SpikeGuard(RULE, tmp_path), BatchSizes.of(((0, 4), (50, 8)))

    def position(step):
        return sizes.before(step) + guard.offset(step)

    assert (
        guard.back_from(30, [5, 20, 25, 30]) == 25 and guard.back_from(26, [25]) == 25 and guard.back_from(9, []) == 0
    )
    guard.skip(25, 30, 'x', sizes)
    assert position(24) == 96 and position(25) == 132  # the batches of steps 25 to 32 are left out
    guard.skip(20, 34, 'y', sizes)  # back beyond the first
    assert guard.skips[0].superseded and position(20) == 4 * (34 + 2 + 1) + 32 and position(19) == 76
    assert SpikeGuard(None, tmp_path).offset(60) == guard.offset(60)  # a continued run leaves out the same
