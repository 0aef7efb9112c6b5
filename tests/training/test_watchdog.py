"""Detection of hangs."""

import time

from palm_jax.training.watchdog import Watchdog


def test_a_hang_shows_where_every_thread_is(capfd):
    with Watchdog(times=4.0, least=0.3) as watchdog:
        for step in range(4):
            watchdog.step(step)
            time.sleep(0.01)
        watchdog.step(4)
        assert watchdog.limit == 0.3

        def stuck():
            time.sleep(0.9)

        stuck()
        watchdog.pause()
        time.sleep(0.5)
    told = capfd.readouterr().err
    assert told.count('step 5 has taken') == 1 and 'in stuck' in told
