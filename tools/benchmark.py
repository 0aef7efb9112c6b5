"""python -m tools.benchmark train --size=40m [--dtype=bfloat16] [--against=palm-rlhf-pytorch,transformers] [--profile]
python -m tools.benchmark finetune --size=base [--methods=lora,top_k_layers]
python -m tools.benchmark finetune --size=smollm2-135m --batch=32 --length=24 --against=peft [--task=banking77]
python -m tools.benchmark decode --size=40m [--against=transformers] [--profile]
python -m tools.benchmark serve --size=40m
python -m tools.benchmark pauses --size=40m --prefill_chunks=0,512
python -m tools.benchmark data

Measures speed on synthetic batches. `train`: tokens/s, step time, compile time, memory and MFU; with `--against`,
compared with other implementations of the same shape. `finetune`: fine-tuning methods for a classifier, each compared
with full fine-tuning: step time, memory, optimizer and checkpoint size; with `--against`, LoRA compared with PEFT's.
`decode`: prefill time, time per token, and share of the memory-bandwidth bound. `serve`: the engine of the server with
concurrent and with sequential requests. `pauses`: how long a text pauses there while a long prompt is read. `data`:
batches from raw text and from the cache, compared with tf.data and the same tokenizer. Contenders run in turn, step by
step (`tools/contenders.py`); a row is printed as soon as it is known.
`--profile` adds the thirty longest kernels. A command imports only what it measures: jax, flax and optax for `train`,
`finetune` and `decode`, TensorFlow for `data`; other implementations need `pip install "palm_jax[peers]"`.
"""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Sequence

from palm_jax.cli import command_line
from palm_jax.cli.parser import positive
from tools.shapes import PUBLISHED, SIZES

_DEVICE = 'device; default: the first that jax finds'


def main(arguments: Sequence[str]) -> int:
    """Parse the arguments, and run a benchmark."""
    options = _parser().parse_args(arguments)
    module, function = {
        'train': ('training', 'compare'),
        'finetune': ('finetuning', 'compare'),
        'decode': ('decoding', 'compare'),
        'serve': ('serving', 'compare'),
        'pauses': ('serving', 'compare_pauses'),
        'data': ('data', 'compare'),
    }[options.command]
    getattr(importlib.import_module(f'tools.benchmark_{module}'), function)(options)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog='python -m tools.benchmark', description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest='command', required=True)
    _add_training(commands)
    _add_decoding(commands)
    _add_data(commands)
    return parser


def number_or_auto(text: str) -> int | str:
    """Return a number, or `auto` as it is."""
    return text if text == 'auto' else int(text)


def _add_training(commands: argparse._SubParsersAction) -> None:
    train = commands.add_parser('train', help='the train step')
    finetune = commands.add_parser('finetune', help='fine-tuning methods compared with full fine-tuning')
    for command, sizes, size, batch, length in (
        (train, SIZES, '40m', 4, 512),
        (finetune, SIZES | PUBLISHED, 'base', 8, 128),
    ):
        command.add_argument('--size', choices=sizes, default=size)
        command.add_argument('--device', choices=('cpu', 'gpu', 'tpu'), help=_DEVICE)
        command.add_argument('--batch', type=positive, default=batch, help='sequences per step')
        command.add_argument('--length', type=positive, default=length, help='tokens per sequence')
        command.add_argument('--dtype', choices=('float32', 'bfloat16'), default='float32')
        command.add_argument('--steps', type=positive, default=10, help='number of timed steps')
        command.add_argument(
            '--unroll',
            type=number_or_auto,
            default='auto',
            help='layers per iteration of the scan; 0 is all, default: auto',
        )
        command.add_argument('--remat', choices=('none', 'minimal', 'full'), default='none')
        command.add_argument('--profile', action='store_true', help='print the thirty longest kernels of a step')
    train.add_argument(
        '--chunk',
        type=number_or_auto,
        default='auto',
        help='positions whose logits exist at the same time; default: auto',
    )
    train.add_argument('--documents', type=positive, default=1, help='documents of unequal lengths packed in a row')
    train.add_argument(
        '--attention',
        choices=('auto', 'xla', 'cudnn', 'blocks', 'splash', 'intervals'),
        default='auto',
        help='implementation of attention',
    )
    train.add_argument('--against', default='', help='comma-separated list of palm-rlhf-pytorch, transformers')
    train.add_argument('--compile_peers', action='store_true', help='also run the others with torch.compile')
    finetune.add_argument('--methods', default='', help='comma-separated list of files in gin/peft; default: all')
    finetune.add_argument(
        '--against', choices=('peft',), help='compare LoRA with PEFT on Transformers, on a size whose block it has'
    )
    finetune.add_argument(
        '--task', default='', help='compare on the texts of this task of gin/tasks, with their lengths'
    )
    finetune.add_argument('--base', default='runs/smollm2', help='MODEL_DIR whose tokenizer reads the texts of --task')


def _add_decoding(commands: argparse._SubParsersAction) -> None:
    decode = commands.add_parser('decode', help='prefill and token-by-token generation')
    decode.add_argument('--size', choices=SIZES, default='40m')
    decode.add_argument('--device', choices=('cpu', 'gpu', 'tpu'), help=_DEVICE)
    decode.add_argument('--batches', default='1,8,64', help='comma-separated list of batch sizes')
    decode.add_argument('--prompt', type=positive, default=64, help='tokens per prompt')
    decode.add_argument('--tokens', type=positive, default=64, help='tokens to generate')
    decode.add_argument('--dtype', choices=('float32', 'bfloat16'), default='float32')
    decode.add_argument('--weights', default='stored', help='comma-separated list of stored, int8')
    decode.add_argument('--steps', type=positive, default=5, help='number of repetitions')
    decode.add_argument('--against', default='', help='transformers, or nothing')
    decode.add_argument('--profile', action='store_true', help='print the thirty longest kernels of an answer')
    serve = commands.add_parser('serve', help='the engine of the server: concurrent and sequential requests')
    serve.add_argument('--size', choices=SIZES, default='40m')
    serve.add_argument('--device', choices=('cpu', 'gpu', 'tpu'), help=_DEVICE)
    serve.add_argument('--requests', type=positive, default=32, help='number of requests, of mixed lengths')
    serve.add_argument('--slots', type=positive, default=8, help='sequences generated in parallel')
    serve.add_argument('--tokens', type=positive, default=48, help='maximum number of tokens to generate per request')
    serve.add_argument('--dtype', choices=('float32', 'bfloat16'), default='float32')
    serve.add_argument('--steps', type=positive, default=3, help='number of repetitions')
    pauses = commands.add_parser('pauses', help='a text that is written while a long prompt is read')
    pauses.add_argument('--size', choices=SIZES, default='40m')
    pauses.add_argument('--device', choices=('cpu', 'gpu', 'tpu'), help=_DEVICE)
    pauses.add_argument('--prompt', type=positive, default=2000, help='tokens of the prompt')
    pauses.add_argument(
        '--prefill_chunks', default='0,512', help='comma-separated list of numbers of tokens read at once; 0 is all'
    )
    pauses.add_argument('--tokens', type=positive, default=8, help='tokens of the text that are written at a time')
    pauses.add_argument('--dtype', choices=('float32', 'bfloat16'), default='float32')
    pauses.add_argument('--steps', type=positive, default=5, help='number of repetitions')


def _add_data(commands: argparse._SubParsersAction) -> None:
    data = commands.add_parser('data', help='batches from raw text and from the cache; needs TensorFlow')
    data.add_argument('--vocabulary', default='sentencepiece', help='sentencepiece (32,000 ids), bytes, or a path')
    data.add_argument('--length', type=positive, default=2048, help='tokens per sequence')
    data.add_argument('--batch', type=positive, default=8, help='sequences per step')
    data.add_argument('--steps', type=positive, default=5, help='number of repetitions')
    data.add_argument('--documents', type=positive, default=600, help='documents of raw text per repetition')


if __name__ == '__main__':
    command_line.run(main)
