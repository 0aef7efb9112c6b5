"""`benchmark finetune`: fine-tuning methods for a classifier, each compared with full fine-tuning."""

from __future__ import annotations

import argparse
import functools
import itertools
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from palm_jax.errors import UserError
from palm_jax.models.heads import Head
from palm_jax.models.palm import PaLM
from palm_jax.peft.adalora import AdaLoRA
from palm_jax.peft.adapter import Adapter
from palm_jax.peft.bitfit import BitFit
from palm_jax.peft.ia3 import IA3
from palm_jax.peft.lora import LoRA
from palm_jax.peft.prefix import Prefix
from palm_jax.peft.prompt import SoftPrompt
from palm_jax.progress_bar import tqdm
from palm_jax.training import head_losses, setup
from tools import kernel_profile
from tools.benchmark_training import jax_trainer
from tools.contenders import Contender, Trainer, check_peers, choose_device, resident_bytes, write
from tools.shapes import PUBLISHED, architecture, describe, synthetic_tokens

NUM_CLASSES = 77
# What is trained, by the name of its file in gin/peft/.
PARTS: dict[str, dict[str, Any]] = {
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


def compare(options: argparse.Namespace) -> None:
    """Measure full fine-tuning, then each method in turn with it, step by step; print a row for each."""
    if options.task and not options.against:
        raise UserError('--task is for --against=peft.')
    if options.against:
        check_peers([options.against], ('peft',))
        (_compare_on_texts if options.task else _compare_with_peft)(options)
        return
    names = [name for name in (options.methods or ','.join(PARTS)).split(',') if name != 'full']
    unknown = [name for name in names if name not in PARTS]
    if unknown:
        raise UserError(f'--methods: unknown {", ".join(unknown)}. Known: {", ".join(PARTS)}.')
    full = Contender('full', functools.partial(finetuner, 'full', options))
    for _ in tqdm(range(options.steps), unit='step', leave=False):
        full.step()
    _print_title(full, options)
    _print_row(full, 1.0)
    for name in tqdm(names, unit='part', leave=False):
        part = Contender(name, functools.partial(finetuner, name, options))
        first = len(full.seconds)
        for _ in range(options.steps):
            full.step()
            part.step()
        _print_row(part, part.median / statistics.median(full.seconds[first:]))
        if options.profile:
            write(kernel_profile.as_text(part.profile()))
        part.stop()
    full.stop()


def _compare_with_peft(options: argparse.Namespace) -> None:
    """Measure LoRA on all linear maps in turn with that of PEFT on Transformers."""
    peft = Contender('PEFT', functools.partial(_peft_trainer, options))
    for _ in tqdm(range(options.steps), unit='step', leave=False):
        peft.step()
    _print_title(peft, options, 'of PEFT')
    _print_row(peft, 1.0)
    ours = Contender('lora', functools.partial(finetuner, 'lora', options))
    first = len(peft.seconds)
    for _ in tqdm(range(options.steps), unit='round', leave=False):
        peft.step()
        ours.step()
    _print_row(ours, ours.median / statistics.median(peft.seconds[first:]))
    if options.profile:
        print(kernel_profile.as_text(ours.profile()), flush=True)
    ours.stop()
    peft.stop()


def _compare_on_texts(options: argparse.Namespace) -> None:
    """Measure LoRA on the texts of a task, beside PEFT with the padding of Transformers' collators."""
    contenders = [
        Contender('PEFT', functools.partial(_peft_trainer, options, grouped=False)),
        Contender('PEFT, by length', functools.partial(_peft_trainer, options, grouped=True)),
        Contender('lora', functools.partial(finetuner, 'lora', options)),
    ]
    for _ in tqdm(range(options.steps), unit='round', leave=False):
        for contender in contenders:
            contender.step()
    print(
        f'{options.task} on {contenders[0].facts["device"]}: {options.size}, {options.batch} texts of at most '
        f'{options.length} tokens per step, {options.dtype}, {options.steps} steps in turn'
    )
    print(f'{"":16}{"tokens a row":>14}{"s in all":>10}{"of PEFT":>9}{"compile s":>11}{"memory":>11}')
    first = sum(contenders[0].seconds)
    for contender in contenders:
        memory, facts = contender.memory(), contender.facts
        seconds = sum(contender.seconds)
        print(
            f'{contender.name:16}{facts["row_length"]:>14.1f}{seconds:>10.1f}{seconds / first:>8.2f}×'
            f'{facts["compile_seconds"]:>11.1f}{"n/a" if memory is None else f"{memory / 2**30:.2f} GiB":>11}'
        )
        contender.stop()


def _batches(options: argparse.Namespace, grouped: bool = True) -> list[Mapping[str, np.ndarray]]:
    """Return what is trained on: one synthetic batch, or as many of a task's texts as there are steps.

    Args:
      options: the options of the command.
      grouped: whether texts of similar length share a batch (GROUP_BY_LENGTH), or each batch is drawn at random. Rows
        are padded as the data says, or to the longest text of the batch, as Transformers' `DataCollatorWithPadding`.
    """
    if not options.task:
        tokens = synthetic_tokens(options)
        batch = {
            'decoder_input_tokens': np.pad(tokens, [(0, 0), (1, 0)])[:, :-1],
            'decoder_segment_ids': np.ones_like(tokens),
            'labels': np.arange(options.batch, dtype=np.int32) % NUM_CLASSES,
            'label_weights': np.ones(options.batch, np.float32),
        }
        return [batch]
    from palm_jax.configuration.compose import render  # the measurements on synthetic batches do without gin
    from palm_jax.configuration.load import load

    flags = [
        ('INITIAL_CHECKPOINT_PATH', render(options.base)),
        ('TASK_FEATURE_LENGTHS', render({'inputs': options.length})),
        ('GROUP_BY_LENGTH', render(options.batch if grouped else None)),
    ]
    files = 'gin/finetune_lora.gin', f'gin/tasks/{options.task}.gin'
    data = load('loop.train', files, flags).build('loop.train')['data']
    found = []
    for number in range(options.steps):
        batch = dict(data.batch(number * options.batch, options.batch))
        used = np.flatnonzero(batch['decoder_segment_ids'].any(axis=0))[-1] + 1
        cut = used if not grouped else batch['decoder_segment_ids'].shape[1]
        found.append({name: v[:, :cut] if v.ndim > 1 else v for name, v in batch.items()})
    return found


def _print_title(contender: Contender, options: argparse.Namespace, ratio: str = 'of full') -> None:
    print(
        f'{options.size} on {contender.facts["device"]}: {describe(options)}, '
        f'{contender.facts["num_params"] / 1e6:.1f}M parameters, {NUM_CLASSES} classes, '
        f'{options.batch} × {options.length} tokens per step, {options.dtype}, {options.steps} steps in turn'
    )
    print(
        f'{"":16}{"trained":>12}{"step s":>8}{"min–max":>12}{ratio:>9}{"compile s":>11}'
        f'{"memory":>11}{"optimizer":>11}{"checkpoint":>12}'
    )


def _print_row(contender: Contender, ratio: float) -> None:
    facts, memory = contender.facts, contender.memory()
    spread = f'{min(contender.seconds):.2f}–{max(contender.seconds):.2f}'
    write(
        f'{contender.name:16}{facts["num_trained"]:>12,}{contender.median:>8.2f}{spread:>12}{ratio:>8.2f}×'
        f'{facts["compile_seconds"]:>11.1f}{"n/a" if memory is None else f"{memory / 2**30:.2f} GiB":>11}'
        f'{facts["optimizer_bytes"] / 2**20:>7.1f} MiB{facts["checkpoint_bytes"] / 2**20:>8.1f} MiB',
    )


def finetuner(name: str, options: argparse.Namespace) -> Trainer:
    """Return a trainer for a classifier of which one part is trained with AdamW."""
    choose_device(options.device)
    batches = _batches(options)
    model, selection = setup.adapt(PaLM(architecture(options), head=Head(NUM_CLASSES)), **PARTS[name])
    trainer = jax_trainer(model, head_losses.ClassLoss(), batches, selection)
    trainer.facts['row_length'] = _row_length(batches)
    return trainer


def _row_length(batches: Sequence[Mapping[str, np.ndarray]]) -> float:
    """Return the mean number of positions of a row, padding included."""
    return float(np.mean([batch['decoder_input_tokens'].shape[1] for batch in batches]))


def _peft_trainer(options: argparse.Namespace, grouped: bool = True) -> Trainer:
    """Return a trainer for the same classifier and the same LoRA in Transformers and PEFT, with AdamW."""
    import peft
    import torch
    from transformers import LlamaConfig, LlamaForSequenceClassification

    if options.size not in PUBLISHED:
        raise UserError(f'--against=peft has no block of --size={options.size}. Try {", ".join(PUBLISHED)}.')
    fields = PUBLISHED[options.size]
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=fields['vocab_size'],
        hidden_size=fields['d_model'],
        num_hidden_layers=fields['num_layers'],
        num_attention_heads=fields['num_heads'],
        num_key_value_heads=fields['num_kv_heads'],
        head_dim=fields['head_dim'],
        intermediate_size=fields['mlp_dim'],
        rms_norm_eps=fields['norm_epsilon'],
        rope_theta=fields['rope_theta'],
        num_labels=NUM_CLASSES,
        pad_token_id=0,
        attn_implementation='sdpa',
        use_cache=False,
    )
    device = 'cuda' if torch.cuda.is_available() and options.device != 'cpu' else 'cpu'
    lora = peft.LoraConfig(task_type='SEQ_CLS', r=8, lora_alpha=16, target_modules='all-linear')
    model = peft.get_peft_model(LlamaForSequenceClassification(config), lora).to(device).train()
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
    batches = _batches(options, grouped)
    inputs = [
        {
            'input_ids': torch.from_numpy(batch['decoder_input_tokens'].astype(np.int64)).to(device),
            'attention_mask': torch.from_numpy(batch['decoder_segment_ids'].astype(np.int64)).to(device),
            'labels': torch.from_numpy(batch['labels'].astype(np.int64)).to(device),
        }
        for batch in batches
    ]
    autocast = torch.autocast(device, dtype=torch.bfloat16, enabled=options.dtype == 'bfloat16')

    def take_step(batch: Mapping[str, torch.Tensor]) -> None:
        with autocast:
            loss = model(**batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        loss.item()

    take_step(inputs[0])
    following = itertools.cycle(inputs)
    trained_bytes = sum(p.numel() * p.element_size() for p in trained)
    facts = {
        'num_params': sum(p.numel() for p in model.parameters()),
        'num_trained': sum(p.numel() for p in trained),
        'optimizer_bytes': 2 * trained_bytes,
        'checkpoint_bytes': 3 * trained_bytes,
        'compile_seconds': 0.0,
        'row_length': _row_length(batches),
        'device': torch.cuda.get_device_name() if device == 'cuda' else device,
    }
    return Trainer(
        lambda: take_step(next(following)),
        facts,
        torch.cuda.max_memory_allocated if device == 'cuda' else resident_bytes,
    )
