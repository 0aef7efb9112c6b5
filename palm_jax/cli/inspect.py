"""palm-jax inspect NAME [--gin_file=...] [--gin.NAME=value ...]

Shows the examples of a task as the model sees them: some examples, decoded, with their bidirectional part, their
targets and their label; the lengths of examples, the share of padding, the share of positions that the loss
counts, and the frequency of labels. Truncated and skipped examples are reported, too.

NAME is a file of gin/tasks (banking77, python_stdlib, ...) or a registered seqio task or mixture; a task for
fine-tuning takes its vocabulary from a base: --gin.INITIAL_CHECKPOINT_PATH=runs/tiny.

palm-jax inspect step --gin_file=runs/tiny/config.gin --step=100 shows the batch of a step of a run, token by token.
"""

from __future__ import annotations

import collections
from collections.abc import Sequence
from typing import Any

import numpy as np

from palm_jax.cli import command_line, inspect_step, named_task
from palm_jax.cli.parser import Parser, positive
from palm_jax.configuration.flags import split_flags


def main(arguments: Sequence[str]) -> int:
    """Build the data as a run does, and print examples and statistics; `step` looks at the batch of a step of a run."""
    if arguments and arguments[0] == 'step':
        return inspect_step.main(arguments[1:])
    parser = Parser(
        prog='palm-jax inspect', description=__doc__, example='palm-jax inspect python_stdlib', takes_bindings=True
    )
    parser.add_argument('name', help='name of the task')
    parser.add_argument(
        '--gin_file',
        action='append',
        default=[],
        help='further gin file, such as an objective; may be repeated; default: none',
    )
    parser.add_argument('--examples', type=positive, default=3, help='number of examples to show')
    parser.add_argument('--batches', type=positive, default=20, help='number of batches of 32 for the statistics')
    command_line.add_trust(parser)
    rest, flags = split_flags(arguments)
    options = parser.parse_args(rest)
    data = named_task.data(options.name, options.gin_file, flags, options.trust_modules)
    print(examples(data, options.examples))
    print(statistics(data, options.batches))
    return 0


def examples(data: Any, count: int) -> str:
    """Return the first training examples: inputs (bidirectional part in ⟪ ⟫), targets and label."""
    batch, decode = data.batch(0, count), data.vocabulary.decode
    lines = []
    for row in range(count):
        features = {name: values[row] for name, values in batch.items()}
        read = features['decoder_input_tokens'][: _used(features)]
        prefix = int(features.get('decoder_causal_attention', np.zeros(1)).sum())
        shown = f'⟪{decode(read[:prefix])}⟫{decode(read[prefix:])}' if prefix else decode(read)
        lines += [f'--- example {row + 1}', f'input    {shown!r}']
        if 'decoder_loss_weights' in features:
            learned = features['decoder_target_tokens'][features['decoder_loss_weights'] > 0]
            lines.append(f'target   {decode(learned)!r}')
        if 'labels' in features:
            labels = features['labels']
            if features['label_weights'].ndim:  # a label per word, where it ends
                labels = labels[features['label_weights'] > 0]
            lines.append(f'label    {data.describe_label(labels)}')
    return '\n'.join(lines)


def statistics(data: Any, num_batches: int) -> str:
    """Return lengths, padding, the share that the loss counts, and labels of some training batches."""
    lengths: list[int] = []
    labels: list[np.ndarray] = []
    counted, positions = 0, 0
    for number in range(num_batches):
        batch = data.batch(32 * number, 32)
        rows = [{name: values[row] for name, values in batch.items()} for row in range(32)]
        lengths += [_used(row) for row in rows]
        positions += batch['decoder_input_tokens'].size
        counted += int((batch['decoder_loss_weights'] > 0).sum()) if 'decoder_loss_weights' in batch else 0
        labels += list(batch.get('labels', ()))
    low, middle, high = np.percentile(lengths, (5, 50, 95))
    lines = [
        '',
        f'epoch        {data.num_sequences:,} sequences of {data.length} tokens',
        f'vocabulary   {data.vocabulary.fingerprint}, {data.vocabulary.size:,} ids',
        f'sample       the first {len(lengths):,} sequences',
        f'tokens       median {middle:.0f}, 5th to 95th percentile {low:.0f} to {high:.0f}, maximum {max(lengths)}',
        f'padding      {1 - sum(lengths) / positions:.1%} of the batch',
    ]
    if counted:
        lines.append(f'the loss     counts {counted / positions:.1%} of the positions')
    if labels and np.ndim(labels[0]) == 0:
        if data.labels:
            counts = collections.Counter(data.labels[int(label)] for label in labels)
            lines.append('labels       ' + ', '.join(f'{name} {count}' for name, count in counts.most_common(12)))
            if len(counts) < len(data.labels):
                lines.append(f'             {len(counts)} of {len(data.labels)} labels occur')
        else:
            lines.append(f'numbers      {np.mean(labels):.4g} ± {np.std(labels):.4g}')
    return '\n'.join(lines)


def _used(features: dict[str, np.ndarray]) -> int:
    """Return the number of tokens of a row without padding at the end."""
    name = 'decoder_segment_ids' if 'decoder_segment_ids' in features else 'decoder_target_tokens'
    positions = np.flatnonzero(features[name])
    return int(positions[-1]) + 1 if len(positions) else 0
