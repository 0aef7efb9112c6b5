"""The measurements of `tools/gpu_suite.py`; every one begins processes of its own, and returns figures by name."""

from __future__ import annotations

import argparse
import contextlib
import functools
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from palm_jax import xla_flags
from palm_jax.errors import UserError
from palm_jax.models.kernels.attention import attend
from palm_jax.models.masks import Mask
from palm_jax.run_directory import RunDirectory
from palm_jax.training import flops
from tools import benchmark_decoding, benchmark_finetuning, benchmark_training, train_on_token_file
from tools.contenders import Contender, Trainer, choose_device, missing_packages
from tools.shapes import SIZES, architecture, packed_documents

_DETERMINISTIC = '--xla_gpu_exclude_nondeterministic_ops=true'
AS_IT_IS = 'as it is'
PLAIN: dict[str, Any] = {'unroll': 'auto', 'chunk': 'auto', 'remat': 'none', 'fuse': 'auto', 'documents': 1}
SMALL_CHECKPOINTS = ('tiny', '40m', 'base', '400m')
# Name, implementation (see `kernels.attention.attend`) and documents a row.
ATTENTION = (
    ('one document', 'auto', 1),
    ('eight documents, dense mask', 'auto', 8),
    ('eight documents, intervals', 'intervals', 8),
    ('one document, intervals', 'intervals', 1),
    ('one document, xla', 'xla', 1),
)


def ceilings(options: argparse.Namespace) -> dict[str, Any]:
    """What the device reaches at best: a square matmul, and memory."""
    with _process('ceilings', functools.partial(_measured_ceilings, options)) as contender:
        return contender.facts


def _measured_ceilings(options: argparse.Namespace) -> Trainer:
    choose_device(options.device)
    side = benchmark_training.ceiling_size()
    bandwidth, of = benchmark_decoding.measured_bandwidth()
    device = jax.devices()[0]
    facts = {
        'device': device.device_kind,
        'jax': jax.__version__,
        'matmul': f'bfloat16 {side}³',
        'tflops_per_second': flops.measured_speed(side, jnp.bfloat16) / 1e12,
        'gigabytes_per_second': bandwidth / 1e9,
        'bandwidth_of': of,
    }
    return Trainer(lambda: None, facts, lambda: None)


def train_variants(jaxlib: str) -> Iterator[tuple[str, dict[str, Any], dict[str, str]]]:
    """Yield a name, changes of the options and the environment of every variant of the train step.

    Args:
      jaxlib: version of jaxlib, for the flags that it knows.
    """
    yield AS_IT_IS, PLAIN, {}
    yield 'eight documents a row', PLAIN | {'documents': 8}, {}
    yield 'eight documents a row, intervals', PLAIN | {'documents': 8, 'attention': 'intervals'}, {}
    yield 'layers in a loop', PLAIN | {'unroll': 1}, {}
    yield 'one product for the projections of an input', PLAIN | {'fuse': True}, {}
    yield 'chunks of 128 positions', PLAIN | {'chunk': 128}, {}
    yield 'JAX_OPTIMIZATION_LEVEL=O1', PLAIN, {'JAX_OPTIMIZATION_LEVEL': 'O1'}
    for setting, environment in flags_of('train', jaxlib):
        if setting != _DETERMINISTIC:
            yield setting, PLAIN, environment
    yield 'remat = minimal', PLAIN | {'remat': 'minimal'}, {}


def flags_of(program: str, jaxlib: str) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield the flags of XLA that are tried with a program, and the environment that sets each.

    Args:
      program: `train` or `decode`.
      jaxlib: version of jaxlib, for the flags that it knows.
    """
    before = os.environ.get('XLA_FLAGS', '')
    for flag in xla_flags.known_to(jaxlib):
        if flag.program == program:
            yield flag.setting, {'XLA_FLAGS': f'{before} {flag.setting}'.strip()}


def applies(implementation: str, length: int) -> bool:
    """Return whether an implementation of attention takes rows of a length; a case of it would fail every time."""
    return implementation != 'intervals' or length % 128 == 0


def train(options: argparse.Namespace) -> dict[str, Any]:
    """A train step of palm_jax."""
    with _process('palm_jax', functools.partial(benchmark_training.ours, options)) as contender:
        figures = _step_figures(contender, options)
        kernels = contender.profile()[:30] if _is_plain(options) else []
    return figures | {'kernels': [kernel._asdict() for kernel in kernels]}


def _is_plain(options: argparse.Namespace) -> bool:
    return all(getattr(options, name) == value for name, value in PLAIN.items())


def peers() -> Iterator[tuple[str, str, bool]]:
    """Yield name, implementation, and whether it is compiled, of those that are installed."""
    for peer in ('transformers', 'palm-rlhf-pytorch'):
        if not missing_packages(peer):
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
        'share_of_ceiling': figures['share_of_ceiling'],
        'peak_gib': None if peak is None else peak / 2**30,
        'init_s': contender.facts.get('init_seconds'),
        'compile_s': contender.facts['compile_seconds'],
    }


def attention(options: argparse.Namespace, implementation: str, documents: int) -> dict[str, Any]:
    """Attention alone over rows of packed documents: forward pass, and with its gradient."""
    make = functools.partial(_attention, options, implementation, documents)
    with _process(implementation, make) as contender:
        seconds = {}
        for name in ('forward', 'with_gradient'):
            contender.step(name)  # compiles
            seconds[name] = statistics.median(contender.step(name) for _ in range(options.steps)) / _CALLS
        return {
            'shape': contender.facts['shape'],
            'forward_ms': seconds['forward'] * 1e3,
            'with_gradient_ms': seconds['with_gradient'] * 1e3,
            'error': contender.facts['error'],
        }


_CALLS = 10  # calls of attention in a timed step, so that starting one costs little


def _attention(options: argparse.Namespace, implementation: str, documents: int) -> Trainer:
    choose_device(options.device)
    _, _, heads, head_dim = SIZES[options.size]
    shapes = [(options.batch, options.length, n, head_dim) for n in (heads, 1, 1, heads)]
    inputs = [jax.random.normal(jax.random.key(n), shape, options.dtype) for n, shape in enumerate(shapes)]
    segment_ids = packed_documents(options, documents) if documents > 1 else None

    def forward(q, k, v, dy, segment_ids, implementation=implementation):
        return attend(q, k, v, Mask(segment_ids), implementation)

    def with_gradient(q, k, v, dy, segment_ids, implementation=implementation):
        of = lambda q, k, v: forward(q, k, v, dy, segment_ids, implementation)  # noqa: E731
        y, backward = jax.vjp(of, q, k, v)
        return y, *backward(dy)

    functions = {'forward': jax.jit(forward), 'with_gradient': jax.jit(with_gradient)}

    def run(name: str) -> None:
        jax.block_until_ready([functions[name](*inputs, segment_ids) for _ in range(_CALLS)])

    facts = {
        'shape': '{} × {:,} × {} × {}'.format(*shapes[0]),
        'error': _largest_error(with_gradient, [x[:1] for x in inputs], segment_ids),
    }
    return Trainer(run, facts, lambda: None)


def _largest_error(function: Callable[..., Any], inputs: Sequence[jax.Array], segment_ids: np.ndarray | None) -> float:
    """Return the largest error of value and gradients on one row against XLA's attention, relative to their norms."""
    ids = None if segment_ids is None else segment_ids[:1]
    ours, theirs = (jax.jit(f)(*inputs, ids) for f in (function, functools.partial(function, implementation='xla')))
    pairs = [(a.astype(jnp.float32), b.astype(jnp.float32)) for a, b in zip(ours, theirs, strict=True)]
    return max(float(jnp.linalg.norm(a - b) / jnp.linalg.norm(b)) for a, b in pairs)


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
        output = _to_its_end(_train(options, directory, steps))
        seconds, lines = time.monotonic() - start, _logged(directory)
        return {
            'steps': steps,
            'tokens_per_second': _median_speed(directory),
            'mfu': lines[-2].get('speed/mfu'),
            'whole_run_s': seconds,
            'memory': next((line for line in output.splitlines() if line.startswith('memory  ') and '×' in line), ''),
        }


def bitwise(options: argparse.Namespace) -> dict[str, Any]:
    """A run that is killed and continued, against one that is not, bit for bit in every loss; and its cost."""
    steps, flags = 8, f'{os.environ.get("XLA_FLAGS", "")} {_DETERMINISTIC}'.strip()
    with (
        _run_directory(options, 'whole') as whole,
        _run_directory(options, 'killed') as killed,
        _run_directory(options, 'fast') as fast,
    ):
        _to_its_end(_train(options, whole, steps, flags))
        process = _train(options, killed, steps, flags)
        while process.poll() is None and len(_logged(killed)) < 2:  # after step 4; step 2 and 4 are saved
            time.sleep(0.05)
        was_killed = process.poll() is None
        process.send_signal(signal.SIGKILL)
        process.communicate()
        _to_its_end(_train(options, killed, steps, flags))
        losses = [
            [{name: x for name, x in line.items() if not name.startswith('speed/')} for line in _logged(run)]
            for run in (whole, killed)
        ]
        _to_its_end(_train(options, fast, steps))
        return {
            'killed': was_killed,
            'equal': losses[0] == losses[1],
            'tokens_per_second': _median_speed(whole),
            'tokens_per_second_otherwise': _median_speed(fast),
        }


def _median_speed(directory: Path) -> float:
    """Return the median of the tokens/s that a run logged, without its first."""
    speeds = [line['speed/tokens_per_second'] for line in _logged(directory) if 'speed/tokens_per_second' in line]
    return statistics.median(speeds[1:])


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


def _to_its_end(process: subprocess.Popen[str]) -> str:
    """Wait for a run of the trainer; return what it printed.

    Raises:
      UserError: with the end of that, if the run failed.
    """
    output = process.communicate()[0]
    if process.returncode:
        raise UserError(f'the trainer ended with {process.returncode}: {output[-2000:]}')
    return output


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
