"""Requests to stop, pauses and speed, without a run."""

import signal
import time

import pytest

from palm_jax.training.clock import RunClock


def clock(preemption_agreed=lambda step: False, first_step=0):
    return RunClock(first_step, 10, 1.0, time.monotonic(), preemption_agreed)


def test_a_signal_is_seen_when_the_step_is_done_and_not_before():
    with clock() as run:
        signal.raise_signal(signal.SIGTERM)
        assert not run.stop_requested  # all decisions about a step agree
        run.step(1, 8, {})
        assert run.stop_requested and run.received_signal == signal.SIGTERM and run.exit_code == 143


def test_without_a_signal_the_exit_code_is_zero():
    with clock() as run:
        run.step(1, 8, {})
    assert not run.stop_requested and run.received_signal is None and run.exit_code == 0


def test_a_rollback_puts_a_request_off_until_the_next_step():
    with clock() as run:
        signal.raise_signal(signal.SIGINT)
        run.step(5, 8, {})
        run.rewind(2)
        assert not run.stop_requested
        run.step(3, 8, {})
        assert run.stop_requested and run.exit_code == 130


def test_several_processes_stop_after_the_step_on_which_they_agreed():
    with clock(lambda step: step == 2) as run:
        run.step(1, 8, {})
        assert not run.stop_requested
        run.step(2, 8, {})
        assert run.stop_requested and run.received_signal == signal.SIGTERM


def test_pauses_do_not_count_as_training_time():
    with clock() as run:
        run.speed()
        run.step(1, 1000, {})
        with run.paused():
            time.sleep(0.5)
        assert run.speed()['tokens_per_second'] > 1000 / 0.4


def test_the_first_step_is_reported_with_its_time(capsys):
    with clock(first_step=3) as run:
        run.step(4, 8, {})
        run.step(5, 8, {})
    assert capsys.readouterr().err.count('first step finished 0 s after the start') == 1


def test_the_first_step_is_followed_by_the_memory_that_it_used(capsys):
    with RunClock(0, 10, 1.0, time.monotonic(), lambda step: False, lambda: 'memory     2 GiB') as run:
        run.step(1, 8, {})
        run.step(2, 8, {})
    assert capsys.readouterr().err.count('memory     2 GiB') == 1


def test_signals_have_their_handlers_back_afterwards():
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(RuntimeError), clock():
        assert signal.getsignal(signal.SIGINT) != before
        raise RuntimeError
    assert signal.getsignal(signal.SIGINT) == before
