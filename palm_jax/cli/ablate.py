"""palm-jax ablate examples/ablations/lora.gin [--gin.NAME=value ...]"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from palm_jax.cli import command_line, studies
from palm_jax.cli.parser import Parser
from palm_jax.configuration.flags import split_flags
from palm_jax.wording import shell_command

if TYPE_CHECKING:
    from palm_jax.studies.ablation import Ablation

_ROOT = 'ablation.Ablation'
_EXAMPLE_FILE = 'examples/ablations/lora.gin'


def main(arguments: Sequence[str]) -> int:
    """Train the runs of an ablation that are not finished, and compare its arms."""
    parser = Parser(
        prog='palm-jax ablate',
        description=(
            'Trains every arm of an ablation with every seed, one run after another, and compares the arms with the\n'
            'baseline in pairs of the same seed. Started again, it continues where it was.'
        ),
        epilog='--gin.NAME=value overrides a macro of the study, e.g. --gin.STUDY_SEEDS=[0,1,2,3,4]',
        example=f'palm-jax ablate {_EXAMPLE_FILE}',
        takes_bindings=True,
    )
    parser.add_argument('study', metavar='STUDY', help='gin file that includes gin/studies/ablation.gin')
    what = parser.add_mutually_exclusive_group()
    what.add_argument(
        '--run', type=int, metavar='N', help='train run N alone, from 0, as a job of an array does; default: all'
    )
    what.add_argument('--slurm', action='store_true', help='print a Slurm script that trains each run as a job')
    what.add_argument('--table', action='store_true', help='compare what is finished, and train nothing')
    rest, flags = split_flags(arguments)
    options = parser.parse_args(rest)

    from palm_jax.studies import ablation, runs

    study = ablation.Ablation(**studies.read_study(options.study, flags, _ROOT, _EXAMPLE_FILE, ablation.OWN))
    study.check()
    if options.slurm:
        command = ['palm-jax', 'ablate', options.study, *(f'--gin.{name}={value}' for name, value in flags)]
        print(ablation.job_script(study, shell_command(command)), end='')
        return 0
    if not options.table and not any(run.is_finished for run in study.runs()):
        runs.check_metric(study.metric, studies.metric_names(study.runs()[0].flags))
    if not options.table and (
        code := study.train(studies.trainer(command_line.command('ablate', arguments)), options.run)
    ):
        return code
    if options.run is None:
        _show(study)
    return 0


def _show(study: Ablation) -> None:
    from palm_jax.studies import table

    found = table.rows(study)
    print(table.text(table.cells(study, found)))
    for path in table.write(study, found):
        print(f'{path.suffix[1:]:<5} {path}')
