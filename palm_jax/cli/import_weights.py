"""palm-jax import smollm2-135m runs/smollm2"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from palm_jax.cli.parser import Parser, positive
from palm_jax.errors import UserError


def main(arguments: Sequence[str]) -> int:
    """Import weights as a base model."""
    from palm_jax.exchange import sources

    parser = Parser(
        prog='palm-jax import',
        description='Imports published weights as a base for fine-tuning.',
        example='palm-jax import --format=hf path/of/a/cohere/model runs/imported',
    )
    parser.add_argument(
        '--format', choices=['hf', 'gguf', 'palm-rlhf-pytorch'], default=None,
        help='hf: a Transformers directory; gguf: a file of llama.cpp; palm-rlhf-pytorch: a file of tensors; '
        'default: what the source is, of the first two',
    )  # fmt: skip
    parser.add_argument(
        '--tokenizer',
        type=Path,
        needs='--format=palm-rlhf-pytorch',
        help='for palm-rlhf-pytorch, which requires it: tokenizer.json, with tokenizer_config.json in the same folder; '
        'default: none',
    )
    parser.add_argument(
        '--head_dim',
        type=positive,
        needs='--format=palm-rlhf-pytorch',
        help='for palm-rlhf-pytorch: size of an attention head; default: the one that the file determines',
    )
    parser.add_argument(
        '--dtype',
        choices=['float32', 'bfloat16', 'float16'],
        default='float32',
        help='type in which the weights are stored',
    )
    parser.add_argument(
        'source',
        help='directory with config.json, *.safetensors and tokenizer.json; .gguf file; file of tensors; a model of an '
        f'installed package ({", ".join(sources.PACKAGED)}); or a repository of the Hub (HuggingFaceTB/SmolLM2-360M)',
    )
    parser.add_argument('model_dir', type=Path, help='directory to create; pass it as INITIAL_CHECKPOINT_PATH')
    options = parser.parse_args(arguments)

    from palm_jax.exchange import imports

    source = sources.find(options.source)
    form = options.format or ('hf' if source.is_dir() else 'gguf')
    if form == 'hf':
        print(imports.from_hf(source, options.model_dir, options.dtype))
    elif form == 'gguf':
        print(imports.from_gguf(source, options.model_dir, options.dtype))
    elif options.tokenizer is None:
        raise UserError(
            "--format=palm-rlhf-pytorch needs --tokenizer=.../tokenizer.json (GPT-NeoX's for conceptofmind/PaLM)."
        )
    else:
        print(imports.from_palm_rlhf(source, options.tokenizer, options.model_dir, options.dtype, options.head_dim))
    print(
        f'fine-tune with  palm-jax train --gin_file=gin/finetune_lora.gin --gin.TRAIN_FILES=text_data.csv '
        f'--gin.INITIAL_CHECKPOINT_PATH={options.model_dir}\n'
        f'serve with      palm-jax serve --model={options.model_dir}'
    )
    return 0
