"""Forward passes beside the engine: one at a time, no more than may wait, none that waits for ever."""

import asyncio
import threading
import types

import pytest

from palm_jax.serving.errors import Failure
from palm_jax.serving.forward_passes import ForwardPasses
from palm_jax.serving.limits import Limits


def passes(max_waiting=8, seconds=5.0):
    return ForwardPasses(types.SimpleNamespace(max_waiting=max_waiting), Limits(seconds=seconds))


def test_calls_run_one_after_another_in_their_order_and_return_their_results():
    running, seen = threading.Semaphore(1), []

    def work(number, *, factor):
        assert running.acquire(blocking=False), 'two at a time'
        seen.append(number)
        running.release()
        return number * factor

    async def main():
        call = passes()
        return await asyncio.gather(*(call(work, number, factor=3) for number in range(6)))

    assert asyncio.run(main()) == [0, 3, 6, 9, 12, 15] and seen == [0, 1, 2, 3, 4, 5]


def test_a_call_that_fails_leaves_the_place_to_the_next():
    async def main():
        call = passes()
        with pytest.raises(ZeroDivisionError):
            await call(lambda: 1 / 0)
        return await call(lambda: 7)

    assert asyncio.run(main()) == 7


def test_too_many_calls_and_too_long_a_wait_are_refused():
    started, release = threading.Event(), threading.Event()

    def hold():
        started.set()
        return release.wait(timeout=60)

    async def main():
        call = passes(max_waiting=1, seconds=0.05)
        first = asyncio.create_task(call(hold))
        while not started.is_set():
            await asyncio.sleep(0.001)
        second = asyncio.create_task(call(hold))
        await asyncio.sleep(0)
        try:
            with pytest.raises(Failure) as busy:
                await call(hold)
            with pytest.raises(Failure) as late:
                await second
        finally:
            release.set()
        assert await first
        return busy.value, late.value

    busy, late = asyncio.run(main())
    assert busy.status == 429 and late.status == 504
