"""palm-jax teach --gin_file=runs/large/config.gin --output=teacher.npz"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from palm_jax.bounds import Above
from palm_jax.cli import command_line
from palm_jax.cli.parser import file_name, number, positive


def main(arguments: Sequence[str]) -> int:
    """Write the likeliest tokens of a teacher at every target of its training table."""
    parser = command_line.parser(
        'teach',
        'Writes what a model that generates text predicts for every target of its training table, for distillation\n'
        '(gin/methods/distil_tokens.gin). --gin.TRAIN_FILES=... names another table.',
        '--gin_file=runs/large/config.gin --output=teacher.npz',
        command_line.RUN_CONFIG,
    )
    parser.add_argument('--output', type=file_name('.npz'), required=True, help='.npz file to write')
    parser.add_argument('--top_k', type=positive, default=32, help='number of tokens kept at each target')
    parser.add_argument(
        '--temperature', type=number(Annotated[float, Above(0)]), default=2.0, help='temperature of the distillation'
    )
    parser.add_argument('--batch_size', type=positive, default=32, help='number of rows predicted together')
    command_line.add_trust(parser)
    options, run = command_line.parse_run(parser, arguments)
    command_line.writable(options.output)

    import numpy as np

    from palm_jax.data.supervised import token_teacher
    from palm_jax.errors import UserError
    from palm_jax.inference.top_tokens import top_tokens_of_rows
    from palm_jax.predictors.generator import Generator
    from palm_jax.training.progress import track

    model = run.load()
    if not isinstance(model.predictor, Generator):
        raise UserError(
            f'palm-jax teach is for models that generate text, and {run.path} was trained {model.predictor.purpose}: '
            'palm-jax infer writes its predictions.'
        )
    encode = getattr(model.data, 'encode', None)
    if encode is None:
        raise UserError(
            f'{run.path} was pretrained on text; palm-jax teach needs a run on a table of inputs and targets.'
        )
    features, size = encode('train'), options.batch_size
    if 'decoder_segment_ids' in features:
        raise UserError(
            f'{run.path} packs several examples into a row; the teacher reads one by one: add --gin.PACK=False.'
        )
    count, num_rows = min(options.top_k, model.model.arch.vocab_size), len(features['decoder_target_tokens'])
    batches = track(model.data.by_length(features, size), -(-num_rows // size), 'teaching')
    targets = np.count_nonzero(features['decoder_loss_weights'], axis=1)
    ids, log_p = top_tokens_of_rows(model.model, model.params, batches, targets, count, options.temperature)
    token_teacher.write(Path(options.output), features, ids, log_p, options.temperature, model.data.vocabulary)
    left = 1 - np.exp(log_p).sum(axis=1).mean()
    print(
        f'taught     {len(ids):,} targets of {num_rows:,} rows, {count} tokens each, {left:.2%} of the probability left'
    )
    print(f'written    {options.output}')
    return 0
