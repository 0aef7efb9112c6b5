"""Learning rates and batch sizes at the steps that define them."""

import numpy as np
import pytest

from palm_jax.errors import UserError
from palm_jax.training import schedules
from palm_jax.training.batch_sizes import BatchSizes


def at(schedule, *steps):
    return [float(schedule(step)) for step in steps]


def test_palm_is_constant_then_inverse_square_root():
    rates = at(schedules.palm(), 0, 9_999, 10_000, 40_000, 250_000)
    np.testing.assert_allclose(rates, [1e-2, 1e-2, 1e-2, 1 / 200, 1 / 500], rtol=1e-6)


def test_the_others_at_their_corners():
    np.testing.assert_allclose(at(schedules.constant(2.0, warmup_steps=4), 0, 2, 4, 99), [0, 1, 2, 2])
    np.testing.assert_allclose(at(schedules.constant(2.0), 0, 9), [2, 2])  # no warm-up: not zero at first
    np.testing.assert_allclose(at(schedules.linear(2.0, 10), 0, 5), [2, 1])
    np.testing.assert_allclose(at(schedules.warmup_stable_decay(2.0, 10), 0, 8), [2, 2])
    np.testing.assert_allclose(at(schedules.linear(2.0, 40, warmup_steps=0.1), 0, 2, 4), [0, 1, 2])  # a share
    np.testing.assert_allclose(at(schedules.linear(2.0, 1, warmup_steps=0.1), 0), [2])
    np.testing.assert_allclose(at(schedules.linear(2.0, 10, warmup_steps=2), 0, 1, 2, 6, 10), [0, 1, 2, 1, 0])
    np.testing.assert_allclose(at(schedules.cosine(2.0, 10, final=0.1), 0, 5, 10), [2, 1.1, 0.2], rtol=1e-5)
    wsd = schedules.warmup_stable_decay(2.0, 100, warmup_steps=10, decay_fraction=0.2)
    np.testing.assert_allclose(at(wsd, 0, 5, 10, 79, 80, 90, 100), [0, 1, 2, 2, 2, 1, 0], atol=1e-6)
    np.testing.assert_allclose(
        at(schedules.cyclical(1.0, 10, minimum=0.2), 0, 5, 10, 15, 2), [0.2, 1, 0.2, 1, 0.52], rtol=1e-5
    )


def test_a_warm_up_longer_than_the_run_is_refused():
    for make in (schedules.linear, schedules.cosine, schedules.warmup_stable_decay):
        with pytest.raises(UserError, match='TRAIN_STEPS'):
            make(1.0, 10, warmup_steps=10)
    with pytest.raises(UserError, match='at least 2'):
        schedules.cyclical(1.0, 1)


def test_the_papers_ramp_of_batch_sizes():
    ramp = BatchSizes.of(((0, 512), (50_000, 1024), (115_000, 2048)))
    assert [ramp.at(s) for s in (0, 49_999, 50_000, 114_999, 115_000, 255_000)] == [512, 512, 1024, 1024, 2048, 2048]
    assert ramp.before(50_000) == 512 * 50_000
    assert ramp.before(255_000) == 512 * 50_000 + 1024 * 65_000 + 2048 * 140_000


@pytest.mark.parametrize('ramp', [7, ((0, 3), (4, 5), (9, 2))])
def test_batches_tile_the_data_without_gap_or_overlap(ramp):
    sizes, expected = BatchSizes.of(ramp), 0
    for step in range(30):
        assert sizes.before(step) == expected
        expected += sizes.at(step)


@pytest.mark.parametrize('ramp', [0, ((1, 5),), ((0, 5), (0, 6)), ((0, 5), (9, 0)), ()])
def test_impossible_ramps_are_refused(ramp):
    with pytest.raises(UserError, match='BATCH_SIZE'):
        BatchSizes.of(ramp)
