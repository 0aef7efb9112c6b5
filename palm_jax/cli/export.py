"""palm-jax export --format=hf --gin_file=runs/tiny/config.gin exported"""

from __future__ import annotations

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
        needs='--format=peft',
        help='for peft, which requires it: the directory that --format=hf wrote for the base; default: none',
    )
    parser.add_argument(
        '--dtype', choices=['float32', 'bfloat16', 'float16'], default='float32', help='type of the weights'
    )
    parser.add_argument('directory', type=Path, help='new or empty directory')
    command_line.add_trust(parser)
    options, run = command_line.parse_run(parser, arguments)

    from palm_jax.api import merging
    from palm_jax.data.vocabulary.special_tokens import ExtendedVocabulary
    from palm_jax.exchange import compiled, described, directories, hf_directory, hf_heads, peft_directory
    from palm_jax.predictors.generator import Generator

    directories.check(options.directory)
    model = run.load()
    arch, data, directory = model.model.arch, model.data, options.directory
    vocabulary = (
        data.vocabulary if isinstance(data.vocabulary, ExtendedVocabulary) else ExtendedVocabulary(data.vocabulary)
    )
    if options.format == 'peft':
        peft_directory.check(model.model)
        if options.base is None:
            raise UserError('--format=peft needs --base: the directory that --format=hf wrote for the base model.')
        if (quantized := model.run.get('base_weights', 'stored')) != 'stored':  # peft has the base as it was exported
            print(f'base       trained on the base in {quantized}, exported for the base as it is stored')
            model = run.load(('BASE_WEIGHTS', "'stored'"))
        there = hf_directory.token_id_permutation(vocabulary, arch)
        print(peft_directory.write(model.model, model.params, there, options.base, directory))
        if model.model.head is not None:
            print('left out   the head: the directory holds the adapter alone; --format=hf exports model and head')
        print(f"exported   {directory}: PeftModel.from_pretrained(base, '{directory}')")
        return 0
    if options.format in ('stablehlo', 'tflite'):
        write = {'stablehlo': compiled.write_stablehlo, 'tflite': compiled.write_tflite}[options.format]
        batches = described.example_batches(model)
        both_ways = not isinstance(model.predictor, Generator) and data.bidirectional
        print(write(model.predictor, model.model, model.dense_params, data.length, directory, batches, both_ways))
        if compared := described.write(model, vocabulary, directory):
            print(compared)
        print(f'exported   {directory}')
        return 0
    params = model.merged()
    if model.model.methods and model.has_quantized_base:
        print(merging.change_of_score(model, params))
    head = hf_heads.of(model, params) if described.labels(model) else None
    if head is not None and head.reason:
        print(f'code       {head.reason}: {hf_heads.MODULE} with a class that has it is written beside the weights')
    hf_directory.write(params, arch, vocabulary, data.length, directory, options.dtype, head=head)
    if head is not None:
        print(hf_heads.verify(directory, head, model, params, vocabulary))
        print(f'exported   {directory}: {head.command.format(directory)}')
        return 0
    if 'head' in params:
        print('left out   the head: the directory holds the language model alone')
    print(hf_directory.verify(directory, params, arch, vocabulary, data.length))
    print(f"exported   {directory}: AutoModelForCausalLM.from_pretrained('{directory}')")
    return 0
