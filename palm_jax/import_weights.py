"""python -m palm_jax.import_weights --format=hf path/of/a/cohere/model runs/imported"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from palm_jax import command_line


def main(arguments: Sequence[str]) -> int:
    """Flags to one call."""
    parser = argparse.ArgumentParser(
        prog='python -m palm_jax.import_weights',
        description='Makes a base to start from of published weights.',
        allow_abbrev=False,
    )
    parser.add_argument(
        '--format', choices=['hf'], default='hf', help='hf: a Transformers directory of the Cohere kind'
    )
    parser.add_argument(
        '--dtype', choices=['float32', 'bfloat16', 'float16'], default='float32', help='to keep them in'
    )
    parser.add_argument('source', type=Path, help='config.json, *.safetensors, tokenizer.json, tokenizer_config.json')
    parser.add_argument('model_dir', type=Path, help='new; INITIAL_CHECKPOINT_PATH takes it then')
    options = parser.parse_args(arguments)

    from palm_jax.exchange import imports

    print(imports.from_hf(options.source, options.model_dir, options.dtype))
    print(
        f'fine-tune with  python -m palm_jax.train --gin_file=gin/finetune_lora.gin --gin.TRAIN_FILES=text_data.csv '
        f'--gin.INITIAL_CHECKPOINT_PATH={options.model_dir}'
    )
    return 0


if __name__ == '__main__':
    command_line.run(main)
