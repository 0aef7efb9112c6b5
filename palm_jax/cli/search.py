"""palm-jax search examples/searches/lora.gin [--gin.NAME=value ...]"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from palm_jax.cli import command_line, studies
from palm_jax.cli.parser import Parser
from palm_jax.configuration.flags import split_flags

if TYPE_CHECKING:
    from palm_jax.studies.search import Search

_ROOT = 'search.Search'
_EXAMPLE_FILE = 'examples/searches/lora.gin'


def main(arguments: Sequence[str]) -> int:
    """Run the trials of a search that are missing, and write the best bindings."""
    parser = Parser(
        prog='palm-jax search',
        description=(
            'Searches for the best values of gin bindings, one training run after another, and writes them as a gin\n'
            'file. Started again, it continues where it was; more trials are --gin.TRIALS=40.'
        ),
        epilog='--gin.NAME=value overrides a macro of the search, e.g. --gin.TRIALS=40',
        example=f'palm-jax search {_EXAMPLE_FILE}',
        takes_bindings=True,
    )
    parser.add_argument('search', metavar='SEARCH', help='gin file that includes gin/studies/search.gin')
    parser.add_argument('--table', action='store_true', help='show the trials so far, and train nothing')
    rest, flags = split_flags(arguments)
    options = parser.parse_args(rest)

    from palm_jax.studies import runs, search

    found = search.Search(**studies.read_study(options.search, flags, _ROOT, _EXAMPLE_FILE, search.OWN))
    found.check()
    if not options.table and found.is_new:
        runs.check_metric(found.metric, studies.metric_names(found.first_trial.flags))
    if not options.table and (code := found.run(studies.trainer(command_line.command('search', arguments)))):
        return code
    _show(found)
    return 0


def _show(search: Search) -> None:
    study = search.open()
    finished = [trial for trial in study.trials if trial.value is not None and trial.state.name == 'COMPLETE']
    largest_first = study.direction.name == 'MAXIMIZE'
    for trial in sorted(finished, key=lambda trial: trial.value or 0.0, reverse=largest_first)[:10]:
        print(f'trial {trial.number:<4} {search.metric} {trial.value:.4f}  {" ".join(trial.user_attrs["flags"])}')
    pruned = sum(trial.state.name == 'PRUNED' for trial in study.trials)
    print(f'{len(study.trials)} trials, {pruned} ended early')
    print(f'best        {search.write_best(study)}, for --gin_file')
