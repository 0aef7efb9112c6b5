"""python -m tools.benchmark train --size=40m [--dtype=bfloat16] [--against=palm-rlhf-pytorch,transformers]

Speed of the train step on synthetic batches: tokens/s, step time, compile time, memory, MFU.
With `--against`, peers of the same shape train in the same process, a step each in turn, so
that a machine whose speed drifts slows all of them alike; their ratios are of medians.
Needs no TensorFlow; peers need `pip install "palm_jax[peers]"`.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import statistics
import time
from collections.abc import Callable, Sequence

import jax
import numpy as np

from palm_jax import command_line
from palm_jax.errors import UserError
from palm_jax.models.palm import Architecture, PaLM
from palm_jax.training import flops, losses, optimizers, schedules, state, step

# Layers, width, heads, head size; all with a vocabulary of 32,000.
SIZES = {
    '40m': (8, 512, 8, 64),
    'base': (12, 832, 8, 128),
    '400m': (24, 1024, 16, 64),
    '1b': (16, 2048, 16, 128),
    '2b': (26, 2304, 18, 128),
}
VOCABULARY = 32_000


@dataclasses.dataclass
class Contender:
    """Something that trains: `step()` runs one step to its end."""

    name: str
    step: Callable[[], None]
    num_params: int
    compile_seconds: float
    memory: int | None = None
    seconds: list[float] = dataclasses.field(default_factory=list)

    @property
    def median(self) -> float:
        """Seconds of the median step."""
        return statistics.median(self.seconds)


def main(arguments: Sequence[str]) -> int:
    """Parses, measures, prints."""
    parser = argparse.ArgumentParser(
        prog='python -m tools.benchmark', description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest='command', required=True)
    train = commands.add_parser('train', help='the train step')
    train.add_argument('--size', choices=SIZES, default='40m')
    train.add_argument('--device', choices=('cpu', 'gpu', 'tpu'), help='default: the first that jax finds')
    train.add_argument('--batch', type=int, default=4, help='sequences a step')
    train.add_argument('--length', type=int, default=512, help='tokens a sequence')
    train.add_argument('--dtype', choices=('float32', 'bfloat16'), default='float32')
    train.add_argument('--steps', type=int, default=10, help='steps that are timed')
    train.add_argument('--unroll', type=int, default=0, help='layers per iteration of the scan; 0 is all')
    train.add_argument('--remat', choices=('none', 'minimal', 'full'), default='none')
    train.add_argument('--chunk', type=int, default=128, help='positions whose logits exist at one time')
    train.add_argument('--against', default='', help='comma-separated: palm-rlhf-pytorch, transformers')
    train.add_argument('--compile_peers', action='store_true', help='peers also under torch.compile')
    options = parser.parse_args(arguments)
    if options.device:
        jax.config.update('jax_platforms', {'gpu': 'cuda'}.get(options.device, options.device))

    tokens = np.random.default_rng(0).integers(0, VOCABULARY, (options.batch, options.length)).astype(np.int32)
    contenders = [ours(options, tokens)]
    for peer in filter(None, options.against.split(',')):
        contenders.append(torch_peer(peer, options, tokens, compiled=False))
        if options.compile_peers:
            contenders.append(torch_peer(peer, options, tokens, compiled=True))
    for _ in range(options.steps):
        for contender in contenders:
            start = time.perf_counter()
            contender.step()
            contender.seconds.append(time.perf_counter() - start)
    report(contenders, options)
    return 0


def report(contenders: Sequence[Contender], options: argparse.Namespace) -> None:
    """A row a contender, ratios to the first."""
    device = jax.devices()[0]
    layers, width, heads, head_dim = SIZES[options.size]
    print(
        f'{options.size} on {device.device_kind}: {layers} layers, width {width}, {heads} heads of {head_dim}, '
        f'{options.batch} × {options.length} tokens a step, {options.dtype}, {options.steps} steps in turn'
    )
    columns = f'{"params":>8}{"tokens/s":>10}{"step s":>9}{"min–max":>14}{"compile s":>11}{"memory":>10}{"MFU":>7}'
    print(f'{"":34}{columns}  speed')
    num_tokens, first = options.batch * options.length, contenders[0]
    for c in contenders:
        per_second = num_tokens / c.median
        work = flops.per_token(c.num_params, architecture(options), options.length)
        mfu = flops.utilization(per_second, work, device.device_kind, 1)
        spread = f'{min(c.seconds):.2f}–{max(c.seconds):.2f}'
        memory = 'n/a' if c.memory is None else f'{c.memory / 2**30:.2f} GiB'
        ratio = '' if c is first else f'palm_jax is {c.median / first.median:.2f}× as fast'
        print(
            f'{c.name:34}{c.num_params / 1e6:>7.1f}M{per_second:>10,.0f}{c.median:>9.3f}{spread:>14}'
            f'{c.compile_seconds:>11.1f}{memory:>10}{"n/a" if mfu is None else f"{mfu:.1%}":>7}  {ratio}'
        )
    print(flops.FORMULA)


def architecture(options: argparse.Namespace) -> Architecture:
    """The shape under test."""
    layers, width, heads, head_dim = SIZES[options.size]
    return Architecture(
        vocab_size=VOCABULARY,
        num_layers=layers,
        d_model=width,
        num_heads=heads,
        head_dim=head_dim,
        dtype=options.dtype,
        unroll_layers=options.unroll,
        remat=options.remat,
    )


def ours(options: argparse.Namespace, tokens: np.ndarray) -> Contender:
    """palm_jax with AdamW."""
    model = PaLM(architecture(options))
    optimizer = optimizers.adamw(schedules.constant(1e-4))
    init = jax.jit(lambda rng: state.unbox(state.init_state(model, optimizer, rng)))
    current = [init(jax.random.key(0))]
    batch = {
        'decoder_input_tokens': np.pad(tokens, [(0, 0), (1, 0)])[:, :-1],
        'decoder_target_tokens': tokens,
        'decoder_loss_weights': np.ones_like(tokens),
    }
    loss = losses.LanguageModelLoss(chunk_length=options.chunk)
    train_step = functools.partial(step.train_step, model=model, loss=loss, optimizer=optimizer)
    rng = jax.random.key(1)
    start = time.perf_counter()
    compiled = jax.jit(train_step, donate_argnums=0).lower(current[0], batch, rng).compile()
    compile_seconds = time.perf_counter() - start
    analysis = compiled.memory_analysis()

    def run() -> None:
        current[0], metrics = compiled(current[0], batch, rng)
        jax.block_until_ready((current[0], metrics))

    run()
    return Contender(
        name='palm_jax',
        step=run,
        num_params=sum(x.size for x in jax.tree.leaves(current[0].params)),
        compile_seconds=compile_seconds,
        memory=analysis.argument_size_in_bytes + analysis.temp_size_in_bytes,
    )


def torch_peer(name: str, options: argparse.Namespace, tokens: np.ndarray, compiled: bool) -> Contender:
    """A PyTorch model of the same depth, width and parameter count with AdamW and clipping."""
    import torch

    layers, width, heads, head_dim = SIZES[options.size]
    device = 'cuda' if jax.default_backend() == 'gpu' else 'cpu'
    torch.manual_seed(0)
    if name == 'palm-rlhf-pytorch':
        from palm_rlhf_pytorch import PaLM as TorchPaLM

        model = TorchPaLM(
            num_tokens=VOCABULARY, dim=width, depth=layers, heads=heads, dim_head=head_dim, flash_attn=True
        )
        loss_of = functools.partial(model, return_loss=True)
    elif name == 'transformers':
        from transformers import LlamaConfig, LlamaForCausalLM

        config = LlamaConfig(
            vocab_size=VOCABULARY,
            hidden_size=width,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            num_key_value_heads=heads,
            head_dim=head_dim,
            # The MLP that makes a block as large as PaLM's: 4·D·HK + 3·D·F = 2·D·HK + 2·D·K + 12·D².
            intermediate_size=round((12 * width + 2 * head_dim - 2 * heads * head_dim) / 3 / 32) * 32,
            tie_word_embeddings=True,
            max_position_embeddings=options.length,
            attn_implementation='sdpa',
            use_cache=False,
        )
        model = LlamaForCausalLM(config)
        loss_of = lambda ids: model(input_ids=ids, labels=ids).loss  # noqa: E731
    else:
        raise UserError(f'--against knows palm-rlhf-pytorch and transformers, not {name!r}.')
    model.to(device).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
    ids = torch.from_numpy(tokens.astype(np.int64)).to(device)
    if compiled:
        loss_of = torch.compile(loss_of)
    autocast = torch.autocast(device, dtype=torch.bfloat16, enabled=options.dtype == 'bfloat16')

    def run() -> None:
        with autocast:
            loss = loss_of(ids)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        loss.item()

    start = time.perf_counter()
    run()
    compile_seconds = time.perf_counter() - start if compiled else 0.0
    run()
    return Contender(
        name=f'{name}, {"torch.compile" if compiled else "eager"}',
        step=run,
        num_params=sum(p.numel() for p in model.parameters()),
        compile_seconds=compile_seconds,
    )


if __name__ == '__main__':
    command_line.run(main)
