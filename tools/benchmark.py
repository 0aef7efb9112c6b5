"""python -m tools.benchmark train --size=40m [--dtype=bfloat16] [--against=palm-rlhf-pytorch,transformers]
python -m tools.benchmark finetune --size=base [--methods=lora,top_layer]
python -m tools.benchmark decode --size=40m [--against=transformers]
python -m tools.benchmark serve --size=40m
python -m tools.benchmark data

Measures speed on synthetic batches. `train`: tokens/s, step time, compile time, memory and MFU; with `--against`,
compared with other implementations of the same shape. `finetune`: fine-tuning methods for a classifier, each compared
with full fine-tuning: step time, memory, optimizer and checkpoint size. `decode`: prefill time, time per token, and
share of the memory-bandwidth bound. `serve`: the engine of the server with concurrent and with sequential requests.
`data`: batches from raw text and from the cache, compared with tf.data and the same tokenizer.
Contenders run in turn, step by step (`tools/contenders.py`).
TensorFlow is needed for `data` only; other implementations need `pip install "palm_jax[peers]"`.
"""

from __future__ import annotations

import argparse
import functools
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

from palm_jax.cli import command_line
from palm_jax.cli.parser import positive
from palm_jax.errors import UserError
from palm_jax.models.heads import Head
from palm_jax.models.palm import Architecture, PaLM
from palm_jax.peft.adalora import AdaLoRA
from palm_jax.peft.adapter import Adapter
from palm_jax.peft.bitfit import BitFit
from palm_jax.peft.ia3 import IA3
from palm_jax.peft.lora import LoRA
from palm_jax.peft.method import AdaptedModel
from palm_jax.peft.prefix import Prefix
from palm_jax.peft.prompt import SoftPrompt
from palm_jax.peft.trainable import Trainable
from palm_jax.training import flops, head_losses, losses, optimizers, schedules, setup, state, step
from tools import benchmark_data, benchmark_decoding
from tools.contenders import Contender, Trainer, choose_device, resident_bytes

# Layers, width, heads, head size; the vocabulary has 32,000 ids.
SIZES = {
    'tiny': (4, 192, 4, 48),
    '40m': (8, 512, 8, 64),
    'base': (12, 832, 8, 128),
    '400m': (24, 1024, 16, 64),
    '1b': (16, 2048, 16, 128),
    '2b': (26, 2304, 18, 128),
}
VOCABULARY, NUM_CLASSES = 32_000, 77
# What `finetune` trains, by the name of its file in gin/peft/.
PARTS = {
    'full': {'trainable': ['.*']},
    'top_k_layers': {'trainable': ['stack/.*', 'final_norm/.*'], 'trainable_layers': 1},
    'lora': {'methods': (LoRA(rank=8, alpha=16.0),)},
    'dora': {'methods': (LoRA(rank=8, alpha=16.0, use_dora=True),)},
    'adalora': {'methods': (AdaLoRA(),)},
    'adapter': {'methods': (Adapter(bottleneck_dim=32),)},
    'prefix': {'methods': (Prefix(),)},
    'prompt': {'methods': (SoftPrompt(),)},
    'ia3': {'methods': (IA3(),)},
    'bitfit': {'methods': (BitFit(),)},
    'norms_only': {'trainable': ['.*norm/scale']},
    'embeddings_only': {'trainable': ['embed/.*']},
    'head_only': {'trainable': []},
}


def main(arguments: Sequence[str]) -> int:
    """Parse the arguments, and run a benchmark."""
    parser = argparse.ArgumentParser(
        prog='python -m tools.benchmark', description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest='command', required=True)
    train = commands.add_parser('train', help='the train step')
    finetune = commands.add_parser('finetune', help='fine-tuning methods compared with full fine-tuning')
    benchmark_decoding.add_arguments(commands, SIZES)
    benchmark_decoding.add_serving_arguments(commands, SIZES)
    benchmark_data.add_arguments(commands)
    for command, size, batch, length in ((train, '40m', 4, 512), (finetune, 'base', 8, 128)):
        command.add_argument('--size', choices=SIZES, default=size)
        command.add_argument(
            '--device', choices=('cpu', 'gpu', 'tpu'), help='device; default: the first that jax finds'
        )
        command.add_argument('--batch', type=positive, default=batch, help='sequences per step')
        command.add_argument('--length', type=positive, default=length, help='tokens per sequence')
        command.add_argument('--dtype', choices=('float32', 'bfloat16'), default='float32')
        command.add_argument('--steps', type=positive, default=10, help='number of timed steps')
        command.add_argument('--unroll', type=int, default=0, help='layers per iteration of the scan; 0 is all')
        command.add_argument('--remat', choices=('none', 'minimal', 'full'), default='none')
    train.add_argument('--chunk', type=int, default=128, help='number of positions whose logits exist at the same time')
    train.add_argument('--against', default='', help='comma-separated list of palm-rlhf-pytorch, transformers')
    train.add_argument('--compile_peers', action='store_true', help='also run the others with torch.compile')
    finetune.add_argument('--methods', default=','.join(PARTS), help='comma-separated list')
    options = parser.parse_args(arguments)
    if options.command == 'decode':
        benchmark_decoding.compare(options, architecture(options))
    elif options.command == 'serve':
        benchmark_decoding.compare_serving(options, architecture(options))
    elif options.command == 'data':
        benchmark_data.compare(options)
    else:
        (compare_training if options.command == 'train' else compare_finetuning)(options)
    return 0


def compare_training(options: argparse.Namespace) -> None:
    """Compare train steps; all contenders take a step in turn."""
    contenders = [Contender('palm_jax', functools.partial(ours, options))]
    for peer in filter(None, options.against.split(',')):
        for compiled in (False, True) if options.compile_peers else (False,):
            name = f'{peer}, {"torch.compile" if compiled else "eager"}'
            contenders.append(Contender(name, functools.partial(torch_trainer, peer, options, compiled)))
    for _ in tqdm(range(options.steps), unit='round', leave=False):
        for contender in contenders:
            contender.step()
    for contender in contenders:
        contender.stop()
    report(contenders, options)


def compare_finetuning(options: argparse.Namespace) -> None:
    """Compare fine-tuning methods, each in turn with full fine-tuning, step by step; print a row for each."""
    names = [name for name in options.methods.split(',') if name != 'full']
    unknown = [name for name in names if name not in PARTS]
    if unknown:
        raise UserError(f'--methods: unknown {", ".join(unknown)}. Known: {", ".join(PARTS)}.')
    full = Contender('full', functools.partial(finetuner, 'full', options))
    layers, width, heads, head_dim = SIZES[options.size]
    print(
        f'{options.size} on {full.facts["device"]}: {layers} layers, width {width}, {heads} heads of {head_dim}, '
        f'{full.facts["num_params"] / 1e6:.1f}M parameters, {NUM_CLASSES} classes, '
        f'{options.batch} × {options.length} tokens per step, {options.dtype}, {options.steps} steps in turn'
    )
    print(
        f'{"":16}{"trained":>12}{"step s":>8}{"min–max":>12}{"of full":>9}{"compile s":>11}'
        f'{"memory":>11}{"optimizer":>11}{"checkpoint":>12}'
    )

    def row(contender: Contender, ratio: float) -> None:
        facts, memory = contender.facts, contender.peak_memory
        spread = f'{min(contender.seconds):.2f}–{max(contender.seconds):.2f}'
        tqdm.write(
            f'{contender.name:16}{facts["num_trained"]:>12,}{contender.median:>8.2f}{spread:>12}{ratio:>8.2f}×'
            f'{facts["compile_seconds"]:>11.1f}{"n/a" if memory is None else f"{memory / 2**30:.2f} GiB":>11}'
            f'{facts["optimizer_bytes"] / 2**20:>7.1f} MiB{facts["checkpoint_bytes"] / 2**20:>8.1f} MiB',
        )

    for name in tqdm(names, unit='part', leave=False):
        part = Contender(name, functools.partial(finetuner, name, options))
        first = len(full.seconds)
        for _ in range(options.steps):
            full.step()
            part.step()
        part.stop()
        row(part, part.median / statistics.median(full.seconds[first:]))
    full.stop()
    row(full, 1.0)


def report(contenders: Sequence[Contender], options: argparse.Namespace) -> None:
    """Print a row for every contender, with ratios to the first."""
    device = contenders[0].facts['device']
    layers, width, heads, head_dim = SIZES[options.size]
    print(
        f'{options.size} on {device}: {layers} layers, width {width}, {heads} heads of {head_dim}, '
        f'{options.batch} × {options.length} tokens per step, {options.dtype}, {options.steps} steps in turn'
    )
    columns = f'{"params":>8}{"tokens/s":>10}{"step s":>9}{"min–max":>14}{"compile s":>11}{"memory":>10}{"MFU":>7}'
    print(f'{"":34}{columns}  speed')
    num_tokens, first = options.batch * options.length, contenders[0]
    for c in contenders:
        per_second = num_tokens / c.median
        work = flops.per_token(c.facts['num_params'], architecture(options), options.length)
        mfu = flops.utilization(per_second, work, device, 1)
        spread = f'{min(c.seconds):.2f}–{max(c.seconds):.2f}'
        memory = 'n/a' if c.peak_memory is None else f'{c.peak_memory / 2**30:.2f} GiB'
        ratio = '' if c is first else f'palm_jax is {c.median / first.median:.2f}× as fast'
        print(
            f'{c.name:34}{c.facts["num_params"] / 1e6:>7.1f}M{per_second:>10,.0f}{c.median:>9.3f}{spread:>14}'
            f'{c.facts["compile_seconds"]:>11.1f}{memory:>10}{"n/a" if mfu is None else f"{mfu:.1%}":>7}  {ratio}'
        )
    print(flops.FORMULA)


def architecture(options: argparse.Namespace) -> Architecture:
    """Return the architecture to measure."""
    layers, width, heads, head_dim = SIZES[options.size]
    return Architecture(
        vocab_size=VOCABULARY,
        num_layers=layers,
        d_model=width,
        num_heads=heads,
        head_dim=head_dim,
        dtype=options.dtype,
        unroll_layers=getattr(options, 'unroll', 0),
        remat=getattr(options, 'remat', 'none'),
        param_dtype=getattr(options, 'param_dtype', 'float32'),
    )


def synthetic_tokens(options: argparse.Namespace) -> np.ndarray:
    """Return the batch that all contenders train on."""
    return np.random.default_rng(0).integers(0, VOCABULARY, (options.batch, options.length)).astype(np.int32)


def ours(options: argparse.Namespace) -> Trainer:
    """Return a trainer for palm_jax with AdamW."""
    choose_device(options.device)
    tokens = synthetic_tokens(options)
    batch = {
        'decoder_input_tokens': np.pad(tokens, [(0, 0), (1, 0)])[:, :-1],
        'decoder_target_tokens': tokens,
        'decoder_loss_weights': np.ones_like(tokens),
    }
    model = PaLM(architecture(options))
    return jax_trainer(model, losses.LanguageModelLoss(chunk_length=options.chunk), batch)


def finetuner(name: str, options: argparse.Namespace) -> Trainer:
    """Return a trainer for a classifier of which one part is trained with AdamW."""
    choose_device(options.device)
    tokens = synthetic_tokens(options)
    batch = {
        'decoder_input_tokens': np.pad(tokens, [(0, 0), (1, 0)])[:, :-1],
        'decoder_segment_ids': np.ones_like(tokens),
        'labels': np.arange(options.batch, dtype=np.int32) % NUM_CLASSES,
        'label_weights': np.ones(options.batch, np.float32),
    }
    model, selection = setup.adapt(PaLM(architecture(options), head=Head(NUM_CLASSES)), **PARTS[name])
    return jax_trainer(model, head_losses.ClassLoss(), batch, selection)


def jax_trainer(
    model: PaLM | AdaptedModel,
    loss: Callable[..., Any],
    batch: dict[str, np.ndarray],
    selection: Trainable = Trainable(),
) -> Trainer:
    """Return a trainer for the train step of palm_jax, on the parameters that `selection` trains."""
    optimizer = optimizers.adamw(schedules.constant(1e-4))
    if isinstance(model, AdaptedModel):
        optimizer = model.wrap_optimizer(optimizer)
    init = jax.jit(lambda rng: state.unbox(state.init_state(model, optimizer, rng, selection)))
    current = [init(jax.random.key(0))]
    if isinstance(model, AdaptedModel):
        model = model.freeze_layers(selection.frozen_layers(current[0].params, model.arch.num_layers))
    penalty = model.penalty if isinstance(model, AdaptedModel) else None
    train_step = functools.partial(step.train_step, model=model, loss=loss, optimizer=optimizer, penalty=penalty)
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

    facts = {
        'num_params': sum(x.size for x in jax.tree.leaves((current[0].params, current[0].frozen))),
        'num_trained': sum(x.size for x in jax.tree.leaves(current[0].params)),
        'optimizer_bytes': sum(x.nbytes for x in jax.tree.leaves(current[0].opt_state)),
        'checkpoint_bytes': sum(x.nbytes for x in jax.tree.leaves((current[0].params, current[0].opt_state))),
        'compile_seconds': compile_seconds,
        'device': device.device_kind,
    }
    return Trainer(run, facts, peak_memory)


def torch_trainer(name: str, options: argparse.Namespace, compiled: bool) -> Trainer:
    """Return a trainer for a PyTorch model of the same depth, width and parameter count, with AdamW and clipping."""
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
            # The size of the MLP with which a block is as large as PaLM's: 4·D·HK + 3·D·F = 2·D·HK + 2·D·K + 12·D².
            intermediate_size=round((12 * width + 2 * head_dim - 2 * heads * head_dim) / 3 / 32) * 32,
            tie_word_embeddings=True,
            max_position_embeddings=options.length,
            attn_implementation='sdpa',
            use_cache=False,
        )
        model = LlamaForCausalLM(config)
        loss_of = lambda ids: model(input_ids=ids, labels=ids).loss  # noqa: E731
    else:
        raise UserError(f'--against: unknown {name!r}. Known: palm-rlhf-pytorch, transformers.')
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
    facts = {
        'num_params': sum(p.numel() for p in model.parameters()),
        'compile_seconds': compile_seconds,
        'device': torch.cuda.get_device_name() if device == 'cuda' else device,
    }
    return Trainer(run, facts, torch.cuda.max_memory_allocated if device == 'cuda' else resident_bytes)


if __name__ == '__main__':
    command_line.run(main)
