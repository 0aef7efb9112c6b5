"""palm-jax import --format=hf path/of/a/cohere/model runs/imported"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from palm_jax.cli import command_line
from palm_jax.errors import UserError


def main(arguments: Sequence[str]) -> int:
    """Flags to one call."""
    parser = argparse.ArgumentParser(
        prog='palm-jax import',
        description='Makes a base to start from of published weights.',
        allow_abbrev=False,
    )
    parser.add_argument(
        '--format', choices=['hf', 'palm-rlhf-pytorch'], default='hf',
        help='hf: a Transformers directory of the Cohere kind; palm-rlhf-pytorch: a file of tensors',
    )  # fmt: skip
    parser.add_argument('--tokenizer', type=Path, help='of palm-rlhf-pytorch: a tokenizer.json with its config beside')
    parser.add_argument(
        '--head_dim', type=command_line.positive, help='of palm-rlhf-pytorch, where the file does not tell'
    )
    parser.add_argument(
        '--dtype', choices=['float32', 'bfloat16', 'float16'], default='float32', help='to keep them in'
    )
    parser.add_argument(
        'source', type=Path, help='a directory with config.json, *.safetensors and tokenizer, or a file'
    )
    parser.add_argument('model_dir', type=Path, help='new; INITIAL_CHECKPOINT_PATH takes it then')
    options = parser.parse_args(arguments)

    from palm_jax.exchange import imports

    if options.format == 'hf':
        print(imports.from_hf(options.source, options.model_dir, options.dtype))
    elif options.tokenizer is None:
        raise UserError("--format=palm-rlhf-pytorch needs --tokenizer=.../tokenizer.json (GPT-NeoX's, say).")
    else:
        print(
            imports.from_palm_rlhf(
                options.source, options.tokenizer, options.model_dir, options.dtype, options.head_dim
            )
        )
    print(
        f'fine-tune with  python -m palm_jax.train --gin_file=gin/finetune_lora.gin --gin.TRAIN_FILES=text_data.csv '
        f'--gin.INITIAL_CHECKPOINT_PATH={options.model_dir}'
    )
    return 0
