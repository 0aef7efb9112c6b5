"""Signals as requests to stop."""

import signal

import pytest

from palm_jax.training.interrupts import Interrupts


def test_a_second_ctrl_c_leaves_at_once(capsys):
    with Interrupts() as interrupts:
        signal.raise_signal(signal.SIGTERM)
        assert interrupts.received == signal.SIGTERM and interrupts.exit_code == 143
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert 'press Ctrl-C again to exit at once' in capsys.readouterr().err
