"""palm-jax continue examples/continual/two_tasks.gin [--gin.NAME=value ...]"""

from __future__ import annotations

from collections.abc import Sequence

from palm_jax.cli import studies
from palm_jax.cli.parser import Parser
from palm_jax.configuration.flags import split_flags

_ROOT = 'continual.Continual'
_EXAMPLE_FILE = 'examples/continual/two_tasks.gin'


def main(arguments: Sequence[str]) -> int:
    """Train the tasks of a sequence that are not finished, and measure what the model still knows of all of them."""
    parser = Parser(
        prog='palm-jax continue',
        description=(
            'Trains one model on several tasks, one after another, evaluates all tasks after each, and reports what\n'
            'was forgotten and what has helped. Started again, it continues where it was.'
        ),
        epilog='--gin.NAME=value overrides a macro of the study, e.g. --gin.METRIC=macro_f1',
        example=f'palm-jax continue {_EXAMPLE_FILE}',
        takes_bindings=True,
    )
    parser.add_argument('study', metavar='STUDY', help='gin file that includes gin/studies/continual.gin')
    what = parser.add_mutually_exclusive_group()
    what.add_argument('--check', action='store_true', help='read all configurations and tables, and train nothing')
    what.add_argument('--table', action='store_true', help='report what is measured, and train nothing')
    rest, flags = split_flags(arguments)
    options = parser.parse_args(rest)

    from palm_jax.cli.continual_tools import Tools
    from palm_jax.logs import show_logs
    from palm_jax.studies import continual, continual_table

    show_logs()
    study = continual.Continual(**studies.read_study(options.study, flags, _ROOT, _EXAMPLE_FILE, continual.OWN))
    if options.check:
        study.check(Tools())
        print(f'checked    {len(study.tasks)} tasks: {", ".join(study.tasks)}')
        return 0
    if not options.table and (code := study.train(Tools())):
        return code
    found = continual_table.measure(study)
    print(continual_table.text(study, *found))
    for path in continual_table.write(study, *found):
        print(f'{path.suffix[1:]:<5} {path}')
    return 0
