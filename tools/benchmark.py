"""python -m tools.benchmark train --size=40m [--dtype=bfloat16] [--against=palm-rlhf-pytorch,transformers]

Speed of the train step on synthetic batches: tokens/s, step time, compile time, memory, MFU.
With `--against`, peers of the same shape train in the same run, a step each in turn, so that
a machine whose speed drifts slows all of them alike; their ratios are of medians. Each has a
process of its own and sleeps while another works: threads and heaps do not meet.
Needs no TensorFlow; peers need `pip install "palm_jax[peers]"`.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import multiprocessing
import os
import resource
import statistics
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection

import jax
import numpy as np
from tqdm import tqdm

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
class Trainer:
    """Something that trains: `step()` runs one step to its end."""

    step: Callable[[], None]
    num_params: int
    compile_seconds: float
    device: str
    peak_memory: Callable[[], int | None]


class Contender:
    """A trainer in a process of its own.

    Args:
      name: of its row.
      make: makes the trainer, in the new process.
    """

    def __init__(self, name: str, make: Callable[[], Trainer]):
        self.name, self.seconds = name, []
        context = multiprocessing.get_context('spawn')
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, make), daemon=True)
        self._process.start()
        theirs.close()
        self.num_params, self.compile_seconds, self.device = self._receive()

    def step(self) -> None:
        """One step, timed where it runs."""
        self._connection.send('step')
        self.seconds.append(self._receive())

    def stop(self) -> None:
        """Ends the process; `peak_memory` is known from then on."""
        self._connection.send('stop')
        self.peak_memory = self._receive()
        self._process.join()

    def _receive(self):
        try:
            return self._connection.recv()
        except EOFError:
            raise UserError(f'{self.name} ended; its message is above.') from None

    @property
    def median(self) -> float:
        """Seconds of the median step."""
        return statistics.median(self.seconds)


def _serve(connection: Connection, make: Callable[[], Trainer]) -> None:
    """A contender's process: makes the trainer, then steps when it is told to."""
    trainer = make()
    connection.send((trainer.num_params, trainer.compile_seconds, trainer.device))
    while connection.recv() == 'step':
        start = time.perf_counter()
        trainer.step()
        connection.send(time.perf_counter() - start)
    connection.send(trainer.peak_memory())


def resident_bytes() -> int:
    """The most memory this process has had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


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
    contenders = [Contender('palm_jax', functools.partial(ours, options))]
    for peer in filter(None, options.against.split(',')):
        for compiled in (False, True) if options.compile_peers else (False,):
            name = f'{peer}, {"torch.compile" if compiled else "eager"}'
            contenders.append(Contender(name, functools.partial(torch_peer, peer, options, compiled)))
    for _ in tqdm(range(options.steps), unit='round', leave=False):
        for contender in contenders:
            contender.step()
    for contender in contenders:
        contender.stop()
    report(contenders, options)
    return 0


def report(contenders: Sequence[Contender], options: argparse.Namespace) -> None:
    """A row a contender, ratios to the first."""
    device = contenders[0].device
    layers, width, heads, head_dim = SIZES[options.size]
    print(
        f'{options.size} on {device}: {layers} layers, width {width}, {heads} heads of {head_dim}, '
        f'{options.batch} × {options.length} tokens a step, {options.dtype}, {options.steps} steps in turn'
    )
    columns = f'{"params":>8}{"tokens/s":>10}{"step s":>9}{"min–max":>14}{"compile s":>11}{"memory":>10}{"MFU":>7}'
    print(f'{"":34}{columns}  speed')
    num_tokens, first = options.batch * options.length, contenders[0]
    for c in contenders:
        per_second = num_tokens / c.median
        work = flops.per_token(c.num_params, architecture(options), options.length)
        mfu = flops.utilization(per_second, work, device, 1)
        spread = f'{min(c.seconds):.2f}–{max(c.seconds):.2f}'
        memory = 'n/a' if c.peak_memory is None else f'{c.peak_memory / 2**30:.2f} GiB'
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


def synthetic_tokens(options: argparse.Namespace) -> np.ndarray:
    """The batch that everybody trains on."""
    return np.random.default_rng(0).integers(0, VOCABULARY, (options.batch, options.length)).astype(np.int32)


def ours(options: argparse.Namespace) -> Trainer:
    """palm_jax with AdamW."""
    os.environ.setdefault('XLA_PYTHON_CLIENT_PREALLOCATE', 'false')  # a GPU is shared with the peers
    if options.device:
        jax.config.update('jax_platforms', {'gpu': 'cuda'}.get(options.device, options.device))
    tokens = synthetic_tokens(options)
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

    def run() -> None:
        current[0], metrics = compiled(current[0], batch, rng)
        jax.block_until_ready((current[0], metrics))

    run()
    device = jax.devices()[0]

    def peak_memory() -> int | None:
        return resident_bytes() if device.platform == 'cpu' else (device.memory_stats() or {}).get('peak_bytes_in_use')

    num_params = sum(x.size for x in jax.tree.leaves(current[0].params))
    return Trainer(run, num_params, compile_seconds, device.device_kind, peak_memory)


def torch_peer(name: str, options: argparse.Namespace, compiled: bool) -> Trainer:
    """A PyTorch model of the same depth, width and parameter count with AdamW and clipping."""
    import torch

    tokens = synthetic_tokens(options)
    layers, width, heads, head_dim = SIZES[options.size]
    device = 'cuda' if torch.cuda.is_available() and options.device != 'cpu' else 'cpu'
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
    num_params = sum(p.numel() for p in model.parameters())
    peak_memory = torch.cuda.max_memory_allocated if device == 'cuda' else resident_bytes
    return Trainer(
        run, num_params, compile_seconds, torch.cuda.get_device_name() if device == 'cuda' else device, peak_memory
    )


if __name__ == '__main__':
    command_line.run(main)
