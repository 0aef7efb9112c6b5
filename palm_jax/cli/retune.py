"""palm-jax retune --registry=runs/intents --champion=runs/finetuned --requests=requests.db --gin.TRAIN_STEPS=300

Renews a deployed model that labels texts, tags words or writes answers. Collects what users corrected (palm-jax serve
--keep=requests.db, /v1/feedback) or the rows of a table, checks them, trains a challenger from the champion on new and
replayed rows, compares both on frozen and on fresh rows, and promotes the challenger only if it wins: significantly
better on the fresh rows, and not significantly worse on the frozen ones. Decisions are in registry.jsonl. A killed
round is continued by the same command.

--champion alone, without rows, makes a run the first champion, so that palm-jax serve --model=intents=runs/intents can
serve the registry from the beginning. --rollback makes the former champion the champion again; --status shows the
registry.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from palm_jax.bounds import AtLeast, Seed
from palm_jax.cli import command_line
from palm_jax.cli.parser import Parser, number, positive
from palm_jax.configuration.flags import split_flags
from palm_jax.errors import UserError
from palm_jax.wording import without_passwords

if TYPE_CHECKING:
    from palm_jax.monitoring.registry import Registry
    from palm_jax.retuning.collect import Labelled
    from palm_jax.retuning.forms import Form


def main(arguments: Sequence[str]) -> int:
    """Run a round, roll back, or show the registry."""
    rest, flags = split_flags(arguments)
    parser = _parser()
    options = parser.parse_args(rest)
    if options.champion:
        options.champion = os.path.abspath(os.path.expanduser(options.champion))
    _refuse_without_effect(parser, options, flags)

    from palm_jax import locks
    from palm_jax.monitoring.registry import Registry

    registry = Registry(options.registry)
    if options.status:
        print(_status(registry))
        return 0
    has_source = bool(options.requests or options.input)
    is_first = bool(options.champion) and not registry.champions()
    if not options.rollback and not (is_first and not has_source) and bool(options.requests) == bool(options.input):
        raise UserError('Give either --requests with what a server kept, or --input with a table of labelled texts.')
    if options.rollback or not options.champion:
        registry.champion()  # refused before a folder is made for it
    what = f'--registry={registry.path}'
    with locks.hold_folder(registry.path, registry.lock, what, 'name another --registry.'):
        if options.rollback:
            decision = registry.roll_back()
            print(f'champion   {decision.model_dir}, again; rolled back from {decision.details["from"]}')
            return 0
        if options.champion:
            from palm_jax.run_directory import find_checkpoint

            find_checkpoint(options.champion, '--champion')
            if registry.champions():
                registry.adopt(options.champion)
        if not has_source:
            return _adopt(registry, options)
        return _round(registry, options, flags, command_line.command('retune', arguments))


def _adopt(registry: Registry, options: Any) -> int:
    """Make a run the first champion, without a round."""
    from palm_jax.api import loading
    from palm_jax.retuning import retune

    model = loading.load_with(options.champion, [], trust_modules=options.trust_modules)
    retune.form_of(model)
    retune.refuse_interrupted(model)
    registry.adopt(options.champion)
    print(f'champion   {registry.champion()}; serve it with palm-jax serve --model={registry.path}')
    return 0


def _round(registry: Registry, options: Any, flags: Sequence[tuple[str, str]], command: str) -> int:
    """Run the open round of a registry, or the next one."""
    from palm_jax.api import loading
    from palm_jax.retuning import retune

    source = retune.place_of(without_passwords(options.requests or options.input))
    settings = retune.Settings(options.replay, options.held_out, options.min_examples, options.seed)
    champion = registry.champion() if registry.champions() else options.champion
    model = loading.load_with(champion, [], trust_modules=options.trust_modules)
    form = retune.form_of(model)
    if not registry.champions():
        retune.refuse_interrupted(model)
    _check_bindings(str(model.config), flags)
    rows = _rows(form, options)
    registry.adopt(champion)  # only now: the first champion cannot be taken back
    current = retune.Round(registry, registry.open_round())
    if current.description.is_file():
        current.check(settings, source)
        print(f'round      {current.number} is continued: its rows were collected before')
    about = retune.collect_round(current, form, rows, settings, source, options.batch_size)
    print(
        f'round      {current.number}: {about["learned"]} new rows to learn with {about["replayed"]} replayed, '
        f'{about["fresh"]} fresh, {about["frozen"]} frozen'
    )
    for what, count in about['dropped'].items():
        print(f'dropped    {count}: {what}')
    if code := retune.train_challenger(current, form, flags, command):
        return code
    found = retune.compare_both(current, form, options.trust_modules, options.batch_size)
    for name in ('frozen', 'fresh'):
        print(f'{name:<10} {_compared(found[name])}')
    decision = retune.promote(current, found)
    print(f'{decision.event:<10} {found["reason"]}')
    print(f'champion   {registry.champion()}')
    return 0


def _check_bindings(config: str, flags: Sequence[tuple[str, str]]) -> None:
    """Read the configuration of a challenger, so that a mistake is found before a round begins.

    Raises:
      UserError: a binding is wrong, or is set by the round itself.
    """
    from palm_jax.configuration.load import load
    from palm_jax.retuning.retune import SET_BY_ROUND

    for name, _ in flags:
        if name in SET_BY_ROUND:
            raise UserError(f'--gin.{name} has no effect: a round sets {name} itself. Leave it out.')
    load('loop.train', [config], flags)


def _refuse_without_effect(parser: Parser, options: Any, flags: Sequence[tuple[str, str]]) -> None:
    """Refuse what belongs to a round where none is run.

    Raises:
      UserError: --status or --rollback is given with something else than --registry.
    """
    what = next((name for name in ('status', 'rollback') if getattr(options, name)), None)
    if what is None:
        return
    own = ('registry', 'status', 'rollback')
    given = [f'--{n}' for n, value in vars(options).items() if n not in own and value != parser.get_default(n)]
    given += [f'--gin.{name}' for name, _ in flags]
    if given:
        raise UserError(f'{given[0]} has no effect with --{what}, which runs no round. Leave it out.')


def _parser() -> Parser:
    parser = Parser(
        prog='palm-jax retune',
        description=__doc__,
        epilog="--gin.NAME=value overrides a binding of the champion's configuration, e.g. --gin.TRAIN_STEPS=300",
        example='palm-jax retune --registry=runs/intents --champion=runs/finetuned --requests=requests.db',
        takes_bindings=True,
    )
    parser.add_argument('--registry', type=Path, required=True, help='folder of the registry and its rounds')
    parser.add_argument(
        '--champion', help='MODEL_DIR of the deployed model, for the first round; default: that of the registry'
    )
    parser.add_argument(
        '--requests',
        help='database of palm-jax serve --keep: a file or a URL; rows with a label are used; default: none',
    )
    parser.add_argument(
        '--model',
        needs='--requests',
        help='with --requests: name of the model that was asked; default: every model',
    )
    parser.add_argument('--input', help='labelled table with the columns of the training table; default: none')
    parser.add_argument(
        '--replay',
        type=number(Annotated[float, AtLeast(0)]),
        default=3.0,
        help='rows of the former training table per new row',
    )
    parser.add_argument(
        '--held_out',
        type=number(Annotated[int, AtLeast(2)]),
        default=4,
        help='one new row in this many is compared on instead of learned',
    )
    parser.add_argument('--min_examples', type=positive, default=20, help='fewest new rows for a round')
    parser.add_argument('--seed', type=number(Seed), default=0, help='seed of the replayed rows')
    parser.add_argument('--batch_size', type=positive, default=32, help='texts per forward pass of the comparison')
    instead = parser.add_mutually_exclusive_group()
    instead.add_argument('--rollback', action='store_true', help='make the former champion the champion again')
    instead.add_argument('--status', action='store_true', help='show the champion and all decisions')
    command_line.add_trust(parser)
    return parser


def _rows(form: Form, options: Any) -> list[Labelled]:
    """Return the labelled texts of a database of requests, or of a table."""
    from palm_jax.monitoring import request_log

    if options.requests:
        kept = request_log.read(options.requests, options.model, with_label=True)
        return [form.of_request(answered) for answered in kept if answered.endpoint in form.endpoints]
    return form.of_table(options.input, '--input')


def _compared(found: dict[str, Any]) -> str:
    interval = 'n/a' if found['interval'] is None else '{:+.4f} to {:+.4f}'.format(*found['interval'])
    test = found.get('test', "McNemar's exact test")  # which rounds of earlier versions do not name
    p = '' if found['p_value'] is None else f', p = {found["p_value"]:.4g} by {test}'
    return (
        f'{found["metric"]} {found["champion"]:.4f} → {found["challenger"]:.4f} on {found["examples"]} examples '
        f'(95% interval of the gain {interval}{p})'
    )


def _status(registry: Registry) -> str:
    lines = [f'champion   {registry.champion()}']
    for d in registry.decisions():
        lines.append(
            f'  {d.time}  {d.event:<11} {d.model_dir}{"  " + d.details["reason"] if "reason" in d.details else ""}'
        )
    return '\n'.join(lines)
