"""`benchmark serve` and `benchmark pauses`: the engine of the server."""

from __future__ import annotations

import argparse
import itertools
import statistics
import threading
import time
from collections.abc import Iterable

import jax
import numpy as np

from palm_jax.inference import decoding
from palm_jax.inference.engine import Delta, Engine, Request
from palm_jax.inference.generate import Sampler
from palm_jax.models.palm import PaLM
from palm_jax.progress_bar import tqdm
from palm_jax.special_ids import EOS_ID
from tools.benchmark_decoding import random_params
from tools.contenders import choose_device
from tools.shapes import architecture

_ROOM = 512  # tokens that the text of `pauses` may grow by


def compare(options: argparse.Namespace) -> None:
    """Run the same requests concurrently and sequentially, in turn."""
    choose_device(options.device)
    arch = architecture(options)
    rng, length = np.random.default_rng(0), 64 + options.tokens
    model, params = decoding.unstack_layers(PaLM(arch), random_params(arch))
    engine = Engine(options.slots, max_waiting=options.requests)
    engine.add('model', model, params, _Numbers(), length, False)
    engine.start()
    wanted = [
        (rng.integers(3, arch.vocab_size, rng.integers(8, 64)).tolist(), int(rng.integers(8, options.tokens + 1)))
        for _ in range(options.requests)
    ]

    def run(together: bool) -> tuple[float, int, list[list[int]]]:
        start, generated = time.perf_counter(), [[] for _ in wanted]
        ended = [threading.Event() for _ in wanted]
        for i, (prompt, tokens) in enumerate(wanted):

            def on_delta(piece: Delta, i=i) -> None:
                generated[i] += [token.id for token in piece.tokens]
                if piece.finish_reason:
                    ended[i].set()

            engine.submit('model', Request(prompt, Sampler(max_tokens=tokens, temperature=0.0), on_delta))
            if not together:
                ended[i].wait()
        for event in ended:
            event.wait()
        return time.perf_counter() - start, sum(map(len, generated)), generated

    seconds: dict[bool, list[float]] = {True: [], False: []}
    for repetition in tqdm(range(options.steps + 1), unit='round', leave=False):
        outputs = []
        for together in (True, False):
            taken, num_tokens, generated = run(together)
            outputs.append(generated)
            if repetition:  # the first compiles
                seconds[together].append(taken)
        assert outputs[0] == outputs[1], 'concurrent requests changed an output'
    engine.stop()
    speed = {together: num_tokens / statistics.median(times) for together, times in seconds.items()}
    print(
        f'{options.size} on {jax.devices()[0].device_kind}, {options.dtype}: {options.requests} requests, '
        f'{num_tokens:,} tokens generated, the same in both\n'
        f'sequential     {speed[False]:>8,.0f} tokens/s\n'
        f'{options.slots} in parallel  {speed[True]:>8,.0f} tokens/s, {speed[True] / speed[False]:.2f}× as many'
    )


class _Numbers:
    """A codec whose token i is the text of its number."""

    def decode(self, ids: Iterable[int]) -> str:
        """Return the numbers, separated by spaces."""
        return ' '.join(map(str, ids))


def compare_pauses(options: argparse.Namespace) -> None:
    """Print how long a text pauses while a long prompt is read, by the number of tokens that are read at once."""
    choose_device(options.device)
    arch = architecture(options)
    model, params = decoding.unstack_layers(PaLM(arch), random_params(arch))
    engines = {}
    for chunk in map(int, options.prefill_chunks.split(',')):
        engines[chunk] = Engine(slots=2, chunk=options.tokens, prefill_chunk=chunk)
        engines[chunk].add('model', model, params, _Numbers(), options.prompt + _ROOM, False)
        engines[chunk].start()
    prompt = np.random.default_rng(0).integers(3, arch.vocab_size, options.prompt).tolist()
    found: dict[int, list[tuple[float, float, float]]] = {chunk: [] for chunk in engines}
    for repetition in tqdm(range(options.steps + 1), unit='round', leave=False):
        for chunk, engine in engines.items():
            times = _pauses(engine, prompt)
            if repetition:  # the first compiles
                found[chunk].append(times)
    print(
        f'{options.size} on {jax.devices()[0].device_kind}, {options.dtype}: a prompt of {options.prompt:,} tokens is '
        f'read while another text is written, {options.tokens} tokens at a time\n'
        f'{"prefill_chunk":<15}{"a step, ms":>12}{"longest pause, ms":>20}{"min–max":>14}{"first token, ms":>18}'
    )
    for chunk, rounds in found.items():
        engines[chunk].stop()
        step, pause, first = (1e3 * statistics.median(column) for column in zip(*rounds, strict=True))
        pauses = [1e3 * pause for _, pause, _ in rounds]
        spread = f'{min(pauses):,.0f}–{max(pauses):,.0f}'
        print(f'{chunk or "whole":<15}{step:>12,.0f}{pause:>20,.0f}{spread:>14}{first:>18,.0f}')


def _pauses(engine: Engine, prompt: list[int]) -> tuple[float, float, float]:
    """Return three times in seconds.

    They are the median time between two deliveries of a text, the longest while a prompt is read, and the time from the
    request with that prompt to its first token.
    """
    deliveries, is_written, has_begun = list[float](), threading.Event(), threading.Event()

    def on_delta(delta: Delta) -> None:
        deliveries.append(time.perf_counter())
        if len(deliveries) == 5:
            is_written.set()

    writing = Request(prompt[:8], Sampler(max_tokens=_ROOM, temperature=0.0, logit_bias={EOS_ID: -100.0}), on_delta)
    engine.submit('model', writing)
    is_written.wait()
    start = time.perf_counter()
    engine.submit('model', Request(prompt, Sampler(max_tokens=1, temperature=0.0), lambda delta: has_begun.set()))
    has_begun.wait()
    end = time.perf_counter()
    number = len(deliveries)
    while len(deliveries) < number + 2 and engine.num_active:
        time.sleep(0.01)
    writing.cancel()
    while engine.num_active:
        time.sleep(0.01)
    between = list(itertools.pairwise(deliveries))
    step = statistics.median(b - a for a, b in between if b < start)
    return step, max(b - a for a, b in between if b > start and a < end), end - start
