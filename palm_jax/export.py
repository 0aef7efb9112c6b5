"""python -m palm_jax.export --format=hf --gin_file=runs/tiny/config.gin exported"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from palm_jax import command_line


def main(arguments: Sequence[str]) -> int:
    """Flags to one call."""
    parser = command_line.parser('export', 'Writes a trained model in the format of another project.')
    parser.add_argument('--format', choices=['hf'], default='hf', help='hf: a directory that Transformers opens')
    parser.add_argument('--dtype', choices=['float32', 'bfloat16', 'float16'], default='float32', help='of the weights')
    parser.add_argument('directory', type=Path, help='new or empty')
    rest, flags = command_line.split_flags(arguments)
    options = parser.parse_args(rest)
    run, changes = command_line.run_of(options.gin_file)

    from palm_jax import trained
    from palm_jax.exchange import hf_directory

    model = trained.load_with(run, flags, changes)
    params, arch, data = model.merged(), model.model.arch, model.data
    hf_directory.write(params, arch, data.vocabulary, data.length, options.directory, options.dtype)
    if 'head' in params:
        print(f'left out   the head for {", ".join(data.labels) or "a number"}: Cohere has none')
    print(hf_directory.verify(options.directory, params, arch, data.vocabulary, data.length))
    print(f"exported   {options.directory}: AutoModelForCausalLM.from_pretrained('{options.directory}')")
    return 0


if __name__ == '__main__':
    command_line.run(main)
