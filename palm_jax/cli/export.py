"""palm-jax export --format=hf --gin_file=runs/tiny/config.gin exported"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

from palm_jax.cli import command_line
from palm_jax.errors import UserError


def main(arguments: Sequence[str]) -> int:
    """Export a model, and verify what was written."""
    parser = command_line.parser(
        'export',
        'Writes a trained model in the format of another project.',
        '--format=hf --gin_file=runs/tiny/config.gin exported',
        command_line.RUN_CONFIG,
    )
    parser.add_argument(
        '--format', choices=['hf', 'peft', 'stablehlo', 'tflite'], default='hf',
        help='hf: a directory for Transformers, with methods merged; peft: the method alone, for peft; '
        'stablehlo: a file that jax runs without this code; tflite: files for small devices, one in int8',
    )  # fmt: skip
    parser.add_argument(
        '--base',
        type=Path,
        help='for peft, which requires it: the directory that --format=hf wrote for the base; default: none',
    )
    parser.add_argument(
        '--dtype', choices=['float32', 'bfloat16', 'float16'], default='float32', help='type of the weights'
    )
    parser.add_argument('directory', type=Path, help='new or empty directory')
    rest, flags = command_line.split_flags(arguments)
    options = parser.parse_args(rest)
    run, changes = command_line.run_of(options.gin_file)

    from palm_jax.api import trained_model
    from palm_jax.data.vocabulary.special_tokens import ExtendedVocabulary
    from palm_jax.exchange import hf_directory, peft_directory

    model = trained_model.load_with(run.path, flags, changes)
    arch, data = model.model.arch, model.data
    vocabulary = (
        data.vocabulary if isinstance(data.vocabulary, ExtendedVocabulary) else ExtendedVocabulary(data.vocabulary)
    )
    if options.format == 'peft':
        if options.base is None:
            raise UserError('--format=peft needs --base: the directory that --format=hf wrote for the base model.')
        there = hf_directory.token_id_permutation(vocabulary, arch)
        print(peft_directory.write(model.model, model.params, there, options.base, options.directory))
        print(f"exported   {options.directory}: PeftModel.from_pretrained(base, '{options.directory}')")
        return 0
    if options.format in ('stablehlo', 'tflite'):
        from palm_jax.exchange import compiled

        write = {'stablehlo': compiled.write_stablehlo, 'tflite': compiled.write_tflite}[options.format]
        held_out = list(itertools.islice(data.validation(4), 4))
        print(write(model.predictor, model.model, model.params, data.length, options.directory, held_out))
        vocabulary.save(options.directory)
        print(f'exported   {options.directory}')
        return 0
    params = model.merged()
    hf_directory.write(params, arch, vocabulary, data.length, options.directory, options.dtype)
    if 'head' in params:
        print(f'left out   the head for {", ".join(data.labels) or "a number"}: Cohere models have no head')
    print(hf_directory.verify(options.directory, params, arch, vocabulary, data.length))
    print(f"exported   {options.directory}: AutoModelForCausalLM.from_pretrained('{options.directory}')")
    return 0
