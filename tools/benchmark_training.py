"""`benchmark train`: the train step of palm_jax, and of other implementations of the same shape."""

from __future__ import annotations

import argparse
import functools
import itertools
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from palm_jax.models.palm import PaLM
from palm_jax.partitioning import MeshLayout
from palm_jax.peft.method import AdaptedModel
from palm_jax.peft.trainable import Trainable
from palm_jax.progress_bar import tqdm
from palm_jax.training import flops, losses, optimizers, schedules, setup, state, step
from tools import kernel_profile
from tools.contenders import Contender, Trainer, check_peers, choose_device, resident_bytes
from tools.shapes import SIZES, VOCABULARY, architecture, describe, packed_documents, synthetic_tokens


def compare(options: argparse.Namespace) -> None:
    """Measure palm_jax alone and print its row; then every other in turn with it, step by step."""
    peers = [name for name in options.against.split(',') if name]
    check_peers(peers, ('palm-rlhf-pytorch', 'transformers'))
    first = Contender('palm_jax', functools.partial(ours, options))
    for _ in tqdm(range(options.steps), unit='step', leave=False):
        first.step()
    print(
        f'{options.size} on {first.facts["device"]}: {describe(options)}, '
        f'{options.batch} × {options.length} tokens per step, {options.dtype}, {options.steps} steps in turn; '
        f'matmul ceiling {first.facts["ceiling"] / 1e12:.4g} TFLOP/s'
    )
    columns = f'{"params":>8}{"tokens/s":>10}{"step s":>9}{"min–max":>14}{"compile s":>11}{"memory":>10}{"MFU":>7}'
    print(f'{"":34}{columns}{"causal":>8}{"ceiling":>9}  speed', flush=True)
    _print_row(first, options)
    for peer in peers:
        for compiled in (False, True) if options.compile_peers else (False,):
            name = f'{peer}, {"torch.compile" if compiled else "eager"}'
            contender = Contender(name, functools.partial(torch_trainer, peer, options, compiled))
            before = len(first.seconds)
            for _ in tqdm(range(options.steps), unit='round', leave=False):
                first.step()
                contender.step()
            contender.facts['ceiling'] = first.facts['ceiling']
            ratio = contender.median / statistics.median(first.seconds[before:])
            _print_row(contender, options, f'palm_jax is {ratio:.2f}× as fast')
            contender.stop()
    print(
        f'{flops.FORMULA}; causal: half of the attention; ceiling: share of that of a matmul, measured first',
        flush=True,
    )
    if options.profile:
        print(kernel_profile.as_text(first.profile()), flush=True)
    first.stop()


def _print_row(contender: Contender, options: argparse.Namespace, speed: str = '') -> None:
    facts, seconds = contender.facts, contender.seconds
    result = figures(facts, contender.median, options)
    spread, memory = f'{min(seconds):.3f}–{max(seconds):.3f}', contender.memory()
    used = 'n/a' if memory is None else f'{memory / 2**30:.2f} GiB'
    names = 'mfu', 'mfu_causal', 'share_of_ceiling'
    full, causal, ceiling = ('n/a' if result[name] is None else f'{result[name]:.1%}' for name in names)
    print(
        f'{contender.name:34}{facts["num_params"] / 1e6:>7.1f}M{result["tokens_per_second"]:>10,.0f}'
        f'{contender.median:>9.3f}{spread:>14}{facts["compile_seconds"]:>11.1f}{used:>10}{full:>7}{causal:>8}'
        f'{ceiling:>9}  {speed}',
        flush=True,
    )


def figures(facts: dict[str, Any], seconds: float, options: argparse.Namespace) -> dict[str, float | None]:
    """Return tokens/s, utilization by the paper's formula (full and causal attention), and the share of the ceiling."""
    arch, num_params = architecture(options), facts['num_params']
    per_second = options.batch * options.length / seconds
    work = {
        'mfu': flops.per_token(num_params, arch, options.length),
        'mfu_causal': flops.per_token(num_params, arch, options.length / 2),
    }
    shares = {name: flops.utilization(per_second, cost, facts['device'], 1) for name, cost in work.items()}
    reached = per_second * work['mfu'] / facts['ceiling'] if 'ceiling' in facts else None
    return {'tokens_per_second': per_second, **shares, 'share_of_ceiling': reached}


def ceiling_size() -> int:
    """Return the size of the square matmul that measures the ceiling of the default device."""
    return 1024 if jax.default_backend() == 'cpu' else 8192


def ours(options: argparse.Namespace) -> Trainer:
    """Return a trainer for palm_jax with AdamW."""
    choose_device(options.device)
    tokens = synthetic_tokens(options)
    batch = {
        'decoder_input_tokens': np.pad(tokens, [(0, 0), (1, 0)])[:, :-1],
        'decoder_target_tokens': tokens,
        'decoder_loss_weights': np.ones_like(tokens),
    }
    if options.documents > 1:
        segment_ids, index = packed_documents(options, options.documents), np.arange(options.length, dtype=np.int32)
        first = np.maximum.accumulate(np.where(np.diff(segment_ids, prepend=0), index, 0), axis=1)
        batch |= {'decoder_segment_ids': segment_ids, 'decoder_positions': index - first}
    ceiling = flops.measured_speed(ceiling_size(), options.dtype)
    model, _ = setup.adapt(PaLM(architecture(options)))
    trainer = jax_trainer(model, losses.LanguageModelLoss(chunk_length=options.chunk), [batch])
    trainer.facts['ceiling'] = ceiling
    return trainer


def jax_trainer(
    model: AdaptedModel,
    loss: Callable[..., Any],
    batches: Sequence[Mapping[str, np.ndarray]],
    selection: Trainable = Trainable(),
) -> Trainer:
    """Return a trainer for the train step of palm_jax, on the parameters that `selection` trains.

    Args:
      model: the model.
      loss: loss of the task.
      batches: batches, of which each step takes the next; the step is compiled for each of their shapes.
      selection: the trained parameters.
    """
    adamw = optimizers.adamw(schedules.constant(1e-4))
    optimizer = model.wrap_optimizer(adamw)
    start = time.perf_counter()
    init = jax.jit(lambda rng: state.unbox(state.init_state(model, optimizer, rng, selection)))
    current = [jax.block_until_ready(init(jax.random.key(0)))]
    init_seconds = time.perf_counter() - start
    model = model.freeze_layers(selection.frozen_layers(current[0].params, model.arch.num_layers))
    settings = {'model': model, 'loss': loss, 'optimizer': optimizer, 'penalty': model.penalty}
    train_step = functools.partial(step.train_step, **settings)
    rng, of_shape = jax.random.key(1), {batch['decoder_input_tokens'].shape: batch for batch in batches}
    start = time.perf_counter()
    jitted = jax.jit(train_step, donate_argnums=0)
    compiled = {shape: jitted.lower(current[0], batch, rng).compile() for shape, batch in of_shape.items()}
    compile_seconds = time.perf_counter() - start

    def take_step(batch: Mapping[str, np.ndarray]) -> None:
        current[0], metrics = compiled[batch['decoder_input_tokens'].shape](current[0], batch, rng)
        jax.block_until_ready((current[0], metrics))

    for batch in of_shape.values():
        take_step(batch)
    following = itertools.cycle(batches)

    def run() -> None:
        take_step(next(following))

    device = jax.devices()[0]

    def peak_memory() -> int | None:
        return resident_bytes() if device.platform == 'cpu' else (device.memory_stats() or {}).get('peak_bytes_in_use')

    facts = {
        'num_params': sum(x.size for x in jax.tree.leaves((current[0].params, current[0].frozen))),
        'num_trained': sum(x.size for x in jax.tree.leaves(current[0].params)),
        'flops_share': _share_of_flops(model, adamw, selection, batches[0]),
        'optimizer_bytes': sum(x.nbytes for x in jax.tree.leaves(current[0].opt_state)),
        'checkpoint_bytes': sum(x.nbytes for x in jax.tree.leaves((current[0].params, current[0].opt_state))),
        'init_seconds': init_seconds,
        'compile_seconds': compile_seconds,
        'device': device.device_kind,
    }
    return Trainer(run, facts, peak_memory)


def _share_of_flops(
    model: AdaptedModel, optimizer: Any, selection: Trainable, batch: Mapping[str, np.ndarray]
) -> float:
    """Return the matmul FLOPs of a step as a share of those of training everything, as `--explain` does."""
    tokens = batch['decoder_input_tokens']
    shapes = setup.Setup.of(model, selection, optimizer, MeshLayout(), 1, len(tokens), tokens.shape[1], 1).plan
    return shapes.share_of_full_flops


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
    else:
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
