"""`benchmark decode` and `benchmark serve`: speed of generation."""

from __future__ import annotations

import argparse
import functools
import statistics
import threading
import time
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from palm_jax.cli.parser import positive
from palm_jax.errors import UserError
from palm_jax.exchange import hf_config
from palm_jax.exchange.families import family_for
from palm_jax.exchange.tensors import exported
from palm_jax.inference import decoding
from palm_jax.inference.engine import Delta, Engine, Request
from palm_jax.inference.generate import Sampler
from palm_jax.models.palm import Architecture, PaLM
from palm_jax.training import state
from tools.contenders import Contender, Trainer, choose_device, resident_bytes

FORMULA = 'bound = memory bandwidth ÷ (bytes of all weights + B · bytes of the keys and values of a full sequence)'


def add_arguments(commands: Any, sizes: Iterable[str]) -> None:
    """Add the arguments of the command `decode`."""
    decode = commands.add_parser('decode', help='prefill and token-by-token generation')
    decode.add_argument('--size', choices=list(sizes), default='40m')
    decode.add_argument('--device', choices=('cpu', 'gpu', 'tpu'), help='device; default: the first that jax finds')
    decode.add_argument('--batches', default='1,8,64', help='comma-separated list of batch sizes')
    decode.add_argument('--prompt', type=positive, default=64, help='tokens per prompt')
    decode.add_argument('--tokens', type=positive, default=64, help='tokens to generate')
    decode.add_argument('--dtype', choices=('float32', 'bfloat16'), default='float32')
    decode.add_argument('--weights', default='stored', help='comma-separated list of stored, int8')
    decode.add_argument('--steps', type=positive, default=5, help='number of repetitions')
    decode.add_argument('--against', default='', help='transformers, or nothing')


def add_serving_arguments(commands: Any, sizes: Iterable[str]) -> None:
    """Add the arguments of the command `serve`."""
    serve = commands.add_parser('serve', help='the engine of the server: concurrent and sequential requests')
    serve.add_argument('--size', choices=list(sizes), default='40m')
    serve.add_argument('--device', choices=('cpu', 'gpu', 'tpu'), help='device; default: the first that jax finds')
    serve.add_argument('--requests', type=positive, default=32, help='number of requests, of mixed lengths')
    serve.add_argument('--slots', type=positive, default=8, help='sequences generated in parallel')
    serve.add_argument('--tokens', type=positive, default=48, help='maximum number of tokens to generate per request')
    serve.add_argument('--dtype', choices=('float32', 'bfloat16'), default='float32')
    serve.add_argument('--steps', type=positive, default=3, help='number of repetitions')


def compare_serving(options: argparse.Namespace, arch: Architecture) -> None:
    """Run the same requests concurrently and sequentially, in turn."""
    choose_device(options.device)
    rng, length = np.random.default_rng(0), 64 + options.tokens
    model, params = decoding.unstack_layers(PaLM(arch), _params(arch))
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


def compare(options: argparse.Namespace, arch: Architecture) -> None:
    """Print a row for every batch size and contender: prefill, time per token, tokens/s, share of the bound."""
    options.param_dtype = options.dtype
    contenders = [
        Contender(f'palm_jax, {weights}', functools.partial(ours, arch, options, weights))
        for weights in options.weights.split(',')
    ]
    if options.against:
        if options.against != 'transformers':
            raise UserError(f'--against: unknown {options.against!r}. Known: transformers.')
        contenders.append(Contender('transformers', functools.partial(theirs, arch, options)))
    facts = contenders[0].facts
    print(
        f'{options.size} on {facts["device"]}, {options.dtype}: {options.prompt} prompt tokens, {options.tokens} '
        f'generated greedily; memory bandwidth {facts["bandwidth"] / 1e9:.1f} GB/s (measured: a sum over 1 GiB)'
    )
    print(f'{"":22}{"batch":>6}{"prefill ms":>12}{"ms/token":>12}{"min–max":>15}{"tokens/s":>10}{"of bound":>10}')
    for batch in map(int, options.batches.split(',')):
        times: dict[str, list[tuple[float, float]]] = {c.name: [] for c in contenders}
        for repetition in tqdm(range(options.steps + 1), unit='round', leave=False):
            for c in contenders:
                prefill = c.step(batch, 1)
                per_token = (c.step(batch, options.tokens) - prefill) / (options.tokens - 1)
                if repetition:  # the first compiles
                    times[c.name].append((prefill, per_token))
        first = None
        for c in contenders:
            prefill, per_token = (statistics.median(column) for column in zip(*times[c.name], strict=True))
            spread = f'{min(t for _, t in times[c.name]) * 1e3:.2f}–{max(t for _, t in times[c.name]) * 1e3:.2f}'
            bound = facts['bandwidth'] / (c.facts['weight_bytes'] + batch * c.facts['cache_bytes'])
            first = first or per_token
            share = 1 / per_token / bound
            ratio = '' if c is contenders[0] else f'  {contenders[0].name} is {per_token / first:.2f}× as fast'
            print(
                f'{c.name:22}{batch:>6}{prefill * 1e3:>12.1f}{per_token * 1e3:>12.2f}'
                f'{spread:>15}{batch / per_token:>10,.0f}{share:>10.1%}{ratio}'
            )
    for c in contenders:
        c.stop()
    print(FORMULA)


def _prompts(arch: Architecture, options: argparse.Namespace, batch: int) -> np.ndarray:
    return np.random.default_rng(0).integers(3, arch.vocab_size, (batch, options.prompt)).astype(np.int32)


def _params(arch: Architecture) -> Any:
    return jax.jit(lambda rng: state.unbox(state.init_params(PaLM(arch), rng)))(jax.random.key(0))


def _cache_bytes(arch: Architecture, options: argparse.Namespace) -> int:
    """Return the bytes of the keys and values of one sequence of full length."""
    length = options.prompt + options.tokens
    return 2 * arch.num_layers * length * arch.num_kv_heads * arch.head_dim * jnp.dtype(arch.dtype).itemsize


def ours(arch: Architecture, options: argparse.Namespace, weights: str) -> Trainer:
    """Return a trainer for palm_jax's decoding with sequences of full length: it asserts that none ends early."""
    choose_device(options.device)
    model, params = decoding.unstack_layers(PaLM(arch), _params(arch), weights)
    never = Sampler(temperature=0.0).sampling_params

    def run(batch: int, tokens: int) -> None:
        prompts, zeros = _prompts(arch, options, batch), np.zeros(batch)
        lengths, left = np.full(batch, options.prompt, np.int32), np.full(batch, tokens, np.int32)
        decode_state, _ = decoding.prefill(
            model, params, prompts, lengths, left, never(zeros, zeros), room=options.tokens
        )
        if tokens > 1:
            decode_state, _ = decoding.decode(model, params, decode_state, steps=options.tokens)
        jax.block_until_ready(decode_state)
        assert int(decode_state.num_generated.min()) == tokens, 'a text ended early: another seed is needed'

    device = jax.devices()[0]
    facts = {
        'device': device.device_kind,
        'bandwidth': _bandwidth(),
        'weight_bytes': sum(x.nbytes for x in jax.tree.leaves(params)),
        'cache_bytes': _cache_bytes(arch, options),
    }
    return Trainer(run, facts, resident_bytes)


def _bandwidth() -> float:
    """Return the bandwidth of a sum over 1 GiB in bytes/s, the best of ten."""
    x = jnp.ones(1 << 28, jnp.float32)
    total = jax.jit(jnp.sum)
    total(x).block_until_ready()
    seconds = []
    for _ in range(10):
        start = time.perf_counter()
        total(x).block_until_ready()
        seconds.append(time.perf_counter() - start)
    return x.nbytes / min(seconds)


def theirs(arch: Architecture, options: argparse.Namespace) -> Trainer:
    """Return a trainer for Transformers' `generate` with the exported weights."""
    import torch
    import transformers

    jax.config.update('jax_platforms', 'cpu')
    device = 'cuda' if torch.cuda.is_available() and options.device != 'cpu' else 'cpu'
    config = transformers.CohereConfig(**hf_config.config(arch, options.prompt + options.tokens, options.dtype))
    config.eos_token_id, config.pad_token_id = None, 0
    model = transformers.CohereForCausalLM(config)
    tensors = exported(_params(arch), family_for(arch).tensors(arch), arch.num_layers)
    weights = {name: torch.from_numpy(np.array(value, np.float32)) for name, value in tensors}
    model.load_state_dict(weights, strict=False)
    model.to(device, getattr(torch, options.dtype)).eval()

    @torch.no_grad()
    def run(batch: int, tokens: int) -> None:
        ids = torch.from_numpy(_prompts(arch, options, batch).astype(np.int64)).to(device)
        out = model.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), do_sample=False, min_new_tokens=tokens,
            max_new_tokens=tokens,
        )  # fmt: skip
        assert out.shape[1] == options.prompt + tokens

    weight_bytes = sum(p.numel() * p.element_size() for p in model.parameters())
    return Trainer(run, {'weight_bytes': weight_bytes, 'cache_bytes': _cache_bytes(arch, options)}, resident_bytes)
