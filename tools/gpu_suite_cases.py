"""The measurements of `tools/gpu_suite.py`; every one begins processes of its own, and returns figures by name."""

from __future__ import annotations

import argparse
import contextlib
import functools
import importlib.util
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from palm_jax import xla_flags
from palm_jax.errors import UserError
from palm_jax.run_directory import RunDirectory
from tools import benchmark_decoding, benchmark_finetuning, benchmark_training, train_on_token_file
from tools.contenders import Contender, Trainer, choose_device
from tools.shapes import architecture

_DETERMINISTIC = '--xla_gpu_exclude_nondeterministic_ops=true'
_PEERS = {'transformers': 'transformers', 'palm-rlhf-pytorch': 'palm_rlhf_pytorch'}  # the module by the name


def ceilings(options: argparse.Namespace) -> dict[str, Any]:
    """What the device reaches at best: a square matmul, and memory."""
    with _process('ceilings', functools.partial(_measured_ceilings, options)) as contender:
        return contender.facts


def _measured_ceilings(options: argparse.Namespace) -> Trainer:
    choose_device(options.device)
    side = 8192 if jax.default_backend() != 'cpu' else 1024
    x = jnp.ones((side, side), jnp.bfloat16)
    product = jax.jit(lambda x: x @ x)
    product(x).block_until_ready()
    seconds = []
    for _ in range(10):
        start = time.perf_counter()
        product(x).block_until_ready()
        seconds.append(time.perf_counter() - start)
    bandwidth, of = benchmark_decoding.measured_bandwidth()
    device = jax.devices()[0]
    facts = {
        'device': device.device_kind,
        'jax': jax.__version__,
        'matmul': f'bfloat16 {side}³',
        'tflops_per_second': 2 * side**3 / min(seconds) / 1e12,
        'gigabytes_per_second': bandwidth / 1e9,
        'bandwidth_of': of,
    }
    return Trainer(lambda: None, facts, lambda: None)


def train_variants(jaxlib: str) -> Iterator[tuple[str, dict[str, Any], dict[str, str]]]:
    """Yield a name, changes of the options and the environment of every variant of the train step.

    Args:
      jaxlib: version of jaxlib, for the flags that it knows.
    """
    plain: dict[str, Any] = {'unroll': 'auto', 'chunk': 'auto', 'remat': 'none', 'fuse': 'auto'}
    yield 'as it is', plain, {}
    yield 'layers in a loop', plain | {'unroll': 1}, {}
    yield 'one product for the projections of an input', plain | {'fuse': True}, {}
    yield 'chunks of 128 positions', plain | {'chunk': 128}, {}
    yield 'JAX_OPTIMIZATION_LEVEL=O1', plain, {'JAX_OPTIMIZATION_LEVEL': 'O1'}
    before = os.environ.get('XLA_FLAGS', '')
    for flag in xla_flags.known_to(jaxlib):
        if flag.setting != _DETERMINISTIC:
            yield flag.setting, plain, {'XLA_FLAGS': f'{before} {flag.setting}'.strip()}
    yield 'remat = minimal', plain | {'remat': 'minimal'}, {}


def train(options: argparse.Namespace) -> dict[str, Any]:
    """A train step of palm_jax."""
    with _process('palm_jax', functools.partial(benchmark_training.ours, options)) as contender:
        figures = _step_figures(contender, options)
        kernels = contender.profile()[:30] if _is_plain(options) else []
    return figures | {'kernels': [kernel._asdict() for kernel in kernels]}


def _is_plain(options: argparse.Namespace) -> bool:
    return (options.unroll, options.chunk, options.remat, options.fuse) == ('auto', 'auto', 'none', 'auto')


def peers() -> Iterator[tuple[str, str, bool]]:
    """Yield name, implementation, and whether it is compiled, of those that are installed."""
    if importlib.util.find_spec('torch') is None:
        return
    for peer, module in _PEERS.items():
        if importlib.util.find_spec(module) is not None:
            yield f'{peer}, torch.compile', peer, True


def train_peer(options: argparse.Namespace, peer: str, compiled: bool) -> dict[str, Any]:
    """A train step of another implementation of the same shape."""
    make = functools.partial(benchmark_training.torch_trainer, peer, options, compiled)
    with _process(peer, make) as contender:
        return _step_figures(contender, options)


def _step_figures(contender: Contender, options: argparse.Namespace) -> dict[str, Any]:
    for _ in range(options.steps):
        contender.step()
    peak = contender.memory()
    figures = benchmark_training.figures(contender.facts, contender.median, options)
    return {
        'parameters': contender.facts['num_params'],
        'step_ms': contender.median * 1e3,
        'fastest_ms': min(contender.seconds) * 1e3,
        'tokens_per_second': figures['tokens_per_second'],
        'mfu': figures['mfu'],
        'mfu_causal': figures['mfu_causal'],
        'peak_gib': None if peak is None else peak / 2**30,
        'init_s': contender.facts.get('init_seconds'),
        'compile_s': contender.facts['compile_seconds'],
    }


def decode(options: argparse.Namespace, weights: str, batch: int) -> dict[str, Any]:
    """Greedy decoding over a cache."""
    options = argparse.Namespace(**(vars(options) | {'prompt': 64, 'tokens': 64}))
    make = functools.partial(benchmark_decoding.ours, architecture(options), options, weights)
    with _process('palm_jax', make) as contender:
        (times,) = benchmark_decoding.measure([contender], batch, options)
        prefill, token = (statistics.median(column) for column in zip(*times, strict=True))
        bandwidth = contender.facts['bandwidth']
        return {
            'weights': contender.facts['weight_dtype'],
            'weights_gb': contender.facts['weight_bytes'] / 1e9,
            'prefill_ms': prefill * 1e3,
            'token_ms': token * 1e3,
            'tokens_per_second': batch / token,
            'share_of_bound': benchmark_decoding.share_of_bound(contender.facts, bandwidth, batch, token),
        }


def finetune(options: argparse.Namespace, name: str) -> dict[str, Any]:
    """A step of one fine-tuning method of a classifier."""
    with _process(name, functools.partial(benchmark_finetuning.finetuner, name, options)) as contender:
        for _ in range(options.steps):
            contender.step()
        peak = contender.memory()
        return {
            'trained': contender.facts['num_trained'],
            'step_ms': contender.median * 1e3,
            'share_of_full_flops': contender.facts['flops_share'],
            'peak_gib': None if peak is None else peak / 2**30,
        }


def trainer(options: argparse.Namespace) -> dict[str, Any]:
    """The trainer from a file of tokens: tokens/s of its log, with data, metrics and a checkpoint at its end."""
    steps = 5 * options.steps
    with _run_directory(options, 'trainer') as directory:
        start = time.monotonic()
        output = _train(options, directory, steps).communicate()[0]
        seconds, lines = time.monotonic() - start, _logged(directory)
        if not lines:
            raise UserError(f'the trainer logged nothing: {output[-2000:]}')
        speeds = [line['speed/tokens_per_second'] for line in lines[1:] if 'speed/tokens_per_second' in line]
        return {
            'steps': steps,
            'tokens_per_second': statistics.median(speeds),
            'mfu': lines[-2].get('speed/mfu'),
            'whole_run_s': seconds,
            'memory': next((line for line in output.splitlines() if line.startswith('memory  ') and '×' in line), ''),
        }


def bitwise(options: argparse.Namespace) -> dict[str, Any]:
    """A run that is killed and continued, against one that is not: every logged loss, bit for bit."""
    steps, flags = 8, f'{os.environ.get("XLA_FLAGS", "")} {_DETERMINISTIC}'.strip()
    with _run_directory(options, 'whole') as whole, _run_directory(options, 'killed') as killed:
        output = _train(options, whole, steps, flags).communicate()[0]
        process = _train(options, killed, steps, flags)
        while process.poll() is None and len(_logged(killed)) < 2:  # after step 4; step 2 and 4 are saved
            time.sleep(0.05)
        was_killed = process.poll() is None
        process.send_signal(signal.SIGKILL)
        process.communicate()
        _train(options, killed, steps, flags).communicate()
        losses = [
            [{name: x for name, x in line.items() if not name.startswith('speed/')} for line in _logged(run)]
            for run in (whole, killed)
        ]
        if not losses[0]:
            raise UserError(f'the trainer logged nothing: {output[-2000:]}')
        speeds = [line['speed/tokens_per_second'] for line in _logged(whole) if 'speed/tokens_per_second' in line]
        return {
            'killed': was_killed,
            'equal': losses[0] == losses[1],
            'tokens_per_second': statistics.median(speeds[1:]),
        }


@contextlib.contextmanager
def _run_directory(options: argparse.Namespace, name: str) -> Iterator[Path]:
    directory = options.output / 'runs' / name
    shutil.rmtree(directory, ignore_errors=True)
    yield directory
    shutil.rmtree(directory, ignore_errors=True)  # a checkpoint of 1B with its optimizer has 12 GB


def _train(options: argparse.Namespace, directory: Path, steps: int, flags: str | None = None) -> subprocess.Popen[str]:
    tokens = options.output / 'tokens.npy'
    train_on_token_file.write_tokens(tokens, max(64, 4 * options.batch) * options.length)
    words = {
        'tokens': tokens,
        'model_dir': directory,
        'size': options.size,
        'batch': options.batch,
        'length': options.length,
        'dtype': options.dtype,
        'steps': steps,
        'save_every': 1000 if flags is None else 2,
    }
    environment = os.environ | ({} if flags is None else {'XLA_FLAGS': flags})
    if options.device:
        environment |= {'JAX_PLATFORMS': {'gpu': 'cuda'}.get(options.device, options.device)}
    return subprocess.Popen(
        [sys.executable, '-m', 'tools.train_on_token_file', *(f'--{name}={value}' for name, value in words.items())],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def _logged(directory: Path) -> list[Mapping[str, Any]]:
    """Return the lines of metrics.jsonl, without one that is being written."""
    path = RunDirectory(directory).metrics
    lines = path.read_text().split('\n')[:-1] if path.exists() else []
    return [json.loads(line) for line in lines]


@contextlib.contextmanager
def _process(name: str, make: Any) -> Iterator[Contender]:
    contender = Contender(name, make)
    try:
        yield contender
    finally:
        with contextlib.suppress(OSError, UserError):
            contender.stop()
