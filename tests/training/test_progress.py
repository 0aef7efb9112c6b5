"""The progress bar and the speed it measures."""

import time

import pytest

from palm_jax.training import flops
from palm_jax.training.progress import Progress, track


@pytest.fixture
def clock(monkeypatch):
    """A clock that the test advances."""
    now = [100.0]
    monkeypatch.setattr(time, 'monotonic', lambda: now[0])

    def advance(seconds):
        now[0] += seconds

    return advance


def test_speed_is_tokens_per_second_of_training_since_the_last_call(clock):
    with Progress(10, 20, 1e9) as progress:
        for _ in range(4):
            clock(0.5)
            progress.step(300)
        assert progress.speed()['tokens_per_second'] == 1200 / 2
        clock(1.0)
        progress.step(100)
        progress.pause()
        clock(60.0)  # an evaluation, which does not count
        progress.resume()
        clock(1.0)
        progress.step(100)
        assert progress.speed()['tokens_per_second'] == 200 / 2


def test_going_back_starts_anew_from_the_earlier_step(clock):
    with Progress(0, 20, 1e9) as progress:
        for _ in range(8):
            clock(1.0)
            progress.step(1000)
        progress.go_back(3)
        clock(2.0)
        progress.step(100)
        assert progress.speed()['tokens_per_second'] == 50
        assert (progress._bar.n, progress._bar.total) == (4, 20)


def test_mfu_is_flops_per_second_over_the_peak(clock, monkeypatch):
    monkeypatch.setattr(
        flops, 'utilization', lambda rate, per_token, kind, devices: rate * per_token / (4e12 * devices)
    )
    with Progress(0, 20, 1e9) as progress:
        clock(2.0)
        progress.step(4000)
        assert progress.speed()['mfu'] == pytest.approx(2000 * 1e9 / 4e12)


def test_values_stay_beside_the_bar_and_lines_go_above_it(capfd):
    with Progress(0, 2, 1.0) as progress:
        progress.show(loss='2.5')
        progress.show(validation='2.25')
        progress.say('a line')
        progress.step(1)
        progress._bar.refresh()
    shown = capfd.readouterr().err
    assert 'a line\n' in shown and 'loss=2.5, validation=2.25' in shown and '1/2' in shown


def test_items_pass_unchanged():
    assert list(track(iter('abc'), 3, 'reading')) == ['a', 'b', 'c']
