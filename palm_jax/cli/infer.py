"""palm-jax infer --gin_file=runs/finetuned/config.gin --input=in.jsonl --output=out.jsonl"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from palm_jax import job
from palm_jax.cli import command_line
from palm_jax.cli.parser import file_name, positive
from palm_jax.wording import counted


def main(arguments: Sequence[str]) -> int:
    """Predict every row of a file."""
    parser = command_line.parser(
        'infer',
        'Predicts every row of a file with a trained model. Started many times by Slurm, MPI or a Kubernetes Job,\n'
        'its processes divide the rows among themselves, and write one file.',
        '--gin_file=runs/finetuned/config.gin --input=in.jsonl --output=out.jsonl',
        command_line.RUN_CONFIG,
    )
    parser.add_argument('--input', required=True, help='.jsonl, .csv, .tsv, .parquet, or .txt with one text per line')
    parser.add_argument(
        '--output',
        type=file_name('.jsonl'),
        required=True,
        help='.jsonl file to write; one output line per input row, in input order',
    )
    parser.add_argument('--batch_size', type=positive, default=32, help='number of rows predicted together')
    command_line.add_trust(parser)
    options, run = command_line.parse_run(parser, arguments)
    process = job.process_index()
    if process:
        job.be_silent()

    from palm_jax.api import predictions, shared_predictions
    from palm_jax.configuration.statements import find_config, open_file
    from palm_jax.data.readers.files import refuse_blank
    from palm_jax.run_directory import find_checkpoint

    metadata = {
        'files': [open_file(find_config(name, '--gin_file')).text for name in run.gin_files],
        'flags': run.bindings,
    }

    def made_from() -> dict[str, Any]:
        return predictions.origin(run.directory.config, find_checkpoint(run.path, 'MODEL_DIR'), options.input, metadata)

    together = process is not None or shared_predictions.are_begun(options.output)
    reserve = shared_predictions.join if together else predictions.reserve
    with reserve(str(options.output), made_from) as output:
        if output.path.exists():  # the other processes of a job have finished it
            answered, bad = output.count()
        else:
            refuse_blank(options.input, '--input')
            model = run.load()
            try:
                answered, bad = output.write(model, options.input, metadata, options.batch_size)
            except KeyboardInterrupt:
                print('finished rows are kept, and the same command resumes after them', file=sys.stderr)
                raise
    total, bad_rows = counted(answered + bad, 'row'), counted(bad, 'row')
    failed = f'; {bad_rows} could not be, and the output says why' if bad else ''
    print(f'predicted  {answered:,} of {total}{failed}: {options.output}')
    return 1 if bad and not answered else 0
