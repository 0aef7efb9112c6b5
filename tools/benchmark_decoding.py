"""`benchmark decode`: speed of generation."""

from __future__ import annotations

import argparse
import collections
import functools
import statistics
import time
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from palm_jax.inference import decoding
from palm_jax.inference.generate import Sampler
from palm_jax.models.palm import Architecture, PaLM
from palm_jax.progress_bar import tqdm
from palm_jax.training import state
from tools import kernel_profile
from tools.contenders import Contender, Trainer, check_peers, choose_device, resident_bytes
from tools.shapes import architecture

FORMULA = 'bound = memory bandwidth ÷ (bytes of all weights + B · bytes of the keys and values of a full sequence)'


def compare(options: argparse.Namespace) -> None:
    """Print a row for every batch size and contender: prefill, time per token, tokens/s, share of the bound.

    palm_jax's rows are printed first; another implementation then runs in turn with it.
    """
    check_peers([options.against] if options.against else [], ('transformers',))
    arch = architecture(options)
    contenders = [
        Contender(f'palm_jax, {weights}', functools.partial(ours, arch, options, weights))
        for weights in options.weights.split(',')
    ]
    facts = contenders[0].facts
    print(
        f'{options.size} on {facts["device"]}, {options.dtype}: {options.prompt} prompt tokens, {options.tokens} '
        f'generated greedily; memory bandwidth {facts["bandwidth"] / 1e9:.1f} GB/s '
        f'(measured: {facts["bandwidth_of"]})'
    )
    print(
        f'{"":22}{"batch":>6}{"weights":>18}{"prefill ms":>12}{"ms/token":>12}{"min–max":>15}{"tokens/s":>10}'
        f'{"of bound":>10}',
        flush=True,
    )
    batches = [int(batch) for batch in options.batches.split(',')]
    for batch in batches:
        _print_rows(contenders, contenders, batch, options)
    if options.against:
        peer = Contender('transformers', functools.partial(theirs, arch, options))
        for batch in batches:
            _print_rows([contenders[0], peer], [peer], batch, options)
        peer.stop()
    print(FORMULA, flush=True)
    if options.profile:
        print(f'an answer of {options.tokens} tokens, batch {batches[0]}:')
        print(kernel_profile.as_text(contenders[0].profile(batches[0], options.tokens)), flush=True)
    for c in contenders:
        c.stop()


def measure(
    contenders: Sequence[Contender], batch: int, options: argparse.Namespace
) -> list[list[tuple[float, float]]]:
    """Return seconds of the prefill and of a token of every contender and repetition, all in turn."""
    times: list[list[tuple[float, float]]] = [[] for _ in contenders]
    for repetition in tqdm(range(options.steps + 1), unit='round', leave=False):
        for c, measured in zip(contenders, times, strict=True):
            prefill = c.step(batch, 1)
            per_token = (c.step(batch, options.tokens) - prefill) / (options.tokens - 1)
            if repetition:  # the first compiles
                measured.append((prefill, per_token))
    return times


def share_of_bound(facts: dict[str, Any], bandwidth: float, batch: int, seconds: float) -> float:
    """Return the speed of a token as a share of the bound that reading memory sets, see `FORMULA`."""
    return (facts['weight_bytes'] + batch * facts['cache_bytes']) / bandwidth / seconds


def _print_rows(
    contenders: Sequence[Contender], shown: Sequence[Contender], batch: int, options: argparse.Namespace
) -> None:
    medians = {}
    for c, times in zip(contenders, measure(contenders, batch, options), strict=True):
        prefill, per_token = (statistics.median(column) for column in zip(*times, strict=True))
        medians[c.name] = per_token
        if c not in shown:
            continue
        spread = f'{min(t for _, t in times) * 1e3:.2f}–{max(t for _, t in times) * 1e3:.2f}'
        share = share_of_bound(c.facts, contenders[0].facts['bandwidth'], batch, per_token)
        first = contenders[0]
        ratio = '' if c is first else f'  {first.name} is {per_token / medians[first.name]:.2f}× as fast'
        weights = f'{c.facts["weight_bytes"] / 1e6:,.0f} MB {c.facts["weight_dtype"]}'
        print(
            f'{c.name:22}{batch:>6}{weights:>18}{prefill * 1e3:>12.1f}{per_token * 1e3:>12.2f}'
            f'{spread:>15}{batch / per_token:>10,.0f}{share:>10.1%}{ratio}',
            flush=True,
        )


def _prompts(arch: Architecture, options: argparse.Namespace, batch: int) -> np.ndarray:
    return np.random.default_rng(0).integers(3, arch.vocab_size, (batch, options.prompt)).astype(np.int32)


def random_params(arch: Architecture) -> Any:
    """Return initial parameters, unboxed."""
    return jax.jit(lambda rng: state.unbox(state.init_params(PaLM(arch), rng)))(jax.random.key(0))


def _cache_bytes(arch: Architecture, options: argparse.Namespace) -> int:
    """Return the bytes of the keys and values of one sequence of full length."""
    length = options.prompt + options.tokens
    return 2 * arch.num_layers * length * arch.num_kv_heads * arch.head_dim * jnp.dtype(arch.dtype).itemsize


def ours(arch: Architecture, options: argparse.Namespace, weights: str) -> Trainer:
    """Return a trainer for palm_jax's decoding with sequences of full length: it asserts that none ends early."""
    choose_device(options.device)
    model, params = decoding.unstack_layers(PaLM(arch), random_params(arch), weights)
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
    bandwidth, bandwidth_of = measured_bandwidth()
    facts = {
        'device': device.device_kind,
        'bandwidth': bandwidth,
        'bandwidth_of': bandwidth_of,
        'weight_bytes': sum(x.nbytes for x in jax.tree.leaves(params)),
        'weight_dtype': _dtype_of(params),
        'cache_bytes': _cache_bytes(arch, options),
    }
    return Trainer(run, facts, resident_bytes)


def measured_bandwidth(num_bytes: int | None = None) -> tuple[float, str]:
    """Return the memory bandwidth in bytes/s, the best of ten sums and ten copies, and which of them it was.

    Args:
      num_bytes: size of the array; None is 4 GiB on an accelerator, and 512 MiB on a CPU. A GPU needs that much: over
        1 GiB a sum reads at two thirds of what memory gives.
    """
    if num_bytes is None:
        num_bytes = 512 << 20 if jax.default_backend() == 'cpu' else 4 << 30
    x = jnp.ones(num_bytes // 4, jnp.float32)
    size = f'{num_bytes / 2**30:g} GiB'
    found = []
    for name, function, moved in (
        (f'a sum over {size}', jnp.sum, x.nbytes),
        (f'a copy of {size}', lambda x: x * 2, 2 * x.nbytes),
    ):
        run = jax.jit(function)
        run(x).block_until_ready()
        seconds = []
        for _ in range(10):
            start = time.perf_counter()
            run(x).block_until_ready()
            seconds.append(time.perf_counter() - start)
        found.append((moved / min(seconds), name))
    return max(found)


def _dtype_of(params: Any) -> str:
    """Return the dtype of most of the weights."""
    sizes: collections.Counter[str] = collections.Counter()
    for x in jax.tree.leaves(params):
        sizes[x.dtype.name] += x.nbytes
    return sizes.most_common(1)[0][0]


def theirs(arch: Architecture, options: argparse.Namespace) -> Trainer:
    """Return a trainer for Transformers' `generate` with the exported weights."""
    import torch
    import transformers

    from palm_jax.exchange import hf_config
    from palm_jax.exchange.families import family_for
    from palm_jax.exchange.tensors import exported

    jax.config.update('jax_platforms', 'cpu')
    device = 'cuda' if torch.cuda.is_available() and options.device != 'cpu' else 'cpu'
    config = transformers.CohereConfig(**hf_config.config(arch, options.prompt + options.tokens, options.dtype))
    config.eos_token_id, config.pad_token_id = None, 0
    model = transformers.CohereForCausalLM(config)
    tensors = exported(random_params(arch), family_for(arch).tensors(arch), arch.num_layers)
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
    facts = {
        'weight_bytes': weight_bytes,
        'weight_dtype': options.dtype,
        'cache_bytes': _cache_bytes(arch, options),
    }
    return Trainer(run, facts, resident_bytes)
