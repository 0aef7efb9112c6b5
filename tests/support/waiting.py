"""Waiting for something that another thread or process does."""

import time


def wait_until(is_so, seconds=30):
    """Returns once `is_so()` is true; fails after `seconds`."""
    end = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < end
        time.sleep(0.02)
