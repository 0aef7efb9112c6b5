"""One round: collect, check, train a challenger from the champion, compare both, and promote what wins.

Every step leaves files in the round's folder that are whole or absent, and a step whose files are there is not taken
again. A round that was killed is therefore continued by the same command, and decided once.

    round_0001/
      round.json           what was collected, checked and split; written last of the tables
      train.jsonl          new rows with replayed ones, which the challenger learns; of a tagger train.conll
      fresh.jsonl          new rows that it does not learn
      frozen.jsonl         held-out rows of the champion, the same in every round
      pool.jsonl           all rows that may be replayed in the next round
      start/               the champion as one model, from which the challenger starts
      challenger/          MODEL_DIR of the challenger
      comparison.json      champion and challenger on both sets
"""

from __future__ import annotations

import dataclasses
import json
import os
import shlex
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np

from palm_jax.api import loading, training
from palm_jax.api.trained_model import TrainedModel
from palm_jax.bounds import AtLeast, Seed, checked
from palm_jax.errors import UserError
from palm_jax.json_files import read_json
from palm_jax.metrics.comparison import Comparison, compare
from palm_jax.monitoring.registry import Decision, Registry
from palm_jax.predictors.label_predictor import LabelPredictor
from palm_jax.predictors.tag_predictor import TagPredictor
from palm_jax.retuning import collect, written
from palm_jax.retuning.collect import Labelled
from palm_jax.retuning.forms import Form, Labels
from palm_jax.retuning.tags import Tags
from palm_jax.run_directory import RunDirectory, write_whole
from palm_jax.wording import counted

_FEWEST_FRESH = 6  # of fewer, no test is significant at 5%
SET_BY_ROUND = (
    *('TRAIN_FILES', 'VALIDATION_FILES', 'INITIAL_CHECKPOINT_PATH', 'MODEL_DIR', 'LABELS', 'SEEDS', 'TAG_COLUMN'),
    *('WORD_PATTERN', 'COLUMNS', 'QUOTING', 'ENCODING', 'TARGET_TEMPLATE', 'REFERENCES_COLUMN', 'SPLIT_BY'),
)


@checked
@dataclasses.dataclass(frozen=True)
class Settings:
    """How a round is run.

    Attributes:
      replay: rows of the champion's training table per new row.
      held_out: one new row in this many is compared on instead of learned.
      min_examples: fewest new rows for a round.
      seed: seed of the replayed rows.
    """

    replay: Annotated[float, AtLeast(0)] = 3.0
    held_out: Annotated[int, AtLeast(2)] = 4
    min_examples: Annotated[int, AtLeast(1)] = 20
    seed: Seed = 0


@dataclasses.dataclass(frozen=True)
class Round:
    """A round of a registry.

    Attributes:
      registry: registry.
      number: number of the round, from 1.
    """

    registry: Registry
    number: int

    @property
    def path(self) -> Path:
        """Folder of the round."""
        return self.registry.round_path(self.number)

    @property
    def description(self) -> Path:
        """What was collected."""
        return self.path / 'round.json'

    @property
    def challenger(self) -> Path:
        """MODEL_DIR of the challenger."""
        return self.path / 'challenger'

    @property
    def comparison(self) -> Path:
        """Champion and challenger on the same examples."""
        return self.path / 'comparison.json'

    def check(self, settings: Settings, source: str) -> None:
        """Refuse other settings and another source than those that the rows were collected with.

        Raises:
          UserError: names the source or the settings.
        """
        about = read_json(self.description)
        if place_of(about.get('source', source)) != place_of(source):
            raise UserError(
                f'Round {self.number} was begun with the rows of {about["source"]}, and is not decided. Continue it '
                f'with these, or begin it again with those of {source}: rm -r {self.path}'
            )
        before = about.get('settings', {})
        now = dataclasses.asdict(settings)
        if changed := [name for name in now if now[name] != before.get(name)]:
            raise UserError(
                f'Round {self.number} was begun with '
                f'{" ".join(f"--{name}={before[name]}" for name in changed if name in before)}. '
                f'Continue it with the same, or begin it again: rm -r {self.path}'
            )

    def table(self, name: str, form: Form) -> Path:
        """Return the file of a table: `train`, `fresh`, `frozen` or `pool`."""
        return self.path / f'{name}{form.suffix}'


def place_of(source: str) -> str:
    """Return a file by its absolute path, so that a round can be continued from any folder; a URL as it is."""
    return source if '://' in source else os.path.abspath(source)


def refuse_interrupted(model: TrainedModel) -> None:
    """Refuse to deploy a model whose training was interrupted.

    Raises:
      UserError: with the commands that end the run.
    """
    run, total_steps = RunDirectory(model.config.parent), model.run.get('total_steps')
    last = None if total_steps is None else run.interrupted_at(total_steps)
    if last is not None:
        command = f'palm-jax train {shlex.join([f"--gin_file={run.config}"])}'
        raise UserError(
            f'--champion={run}: this run was interrupted after step {last:,} of {total_steps:,}. Continue it:\n'
            f'  {command}\nor let it end there, with a report: {command} --gin.TRAIN_STEPS={last}'
        )


def form_of(model: TrainedModel) -> Form:
    """Return what renewing a model means.

    Raises:
      UserError: the model was not trained on right answers that a user could correct.
    """
    if isinstance(model.predictor, LabelPredictor):
        return Labels(model)
    if isinstance(model.predictor, TagPredictor):
        return Tags(model)
    form = written.form_of(model)
    if form is not None:
        return form(model)
    raise UserError(
        'palm-jax retune renews models that label texts, tag words or answer in writing; this one was trained '
        f'{model.predictor.purpose}. Collect what was kept with palm_jax.monitoring.request_log.read, and train on it.'
    )


def collect_round(
    current: Round, form: Form, rows: Sequence[Labelled], settings: Settings, source: str, batch_size: int = 32
) -> dict[str, Any]:
    """Write the tables of a round, unless they are there; return what was collected.

    Args:
      current: round.
      form: form of the champion.
      rows: texts with the labels that users gave, in order of time.
      settings: shares of the tables.
      source: file that the rows are from.
      batch_size: texts per forward pass of the champion.

    Raises:
      UserError: there are too few rows to learn from, or too few that the champion gets wrong.
    """
    if current.description.is_file():
        return read_json(current.description)
    pool, frozen = _known_rows(current.registry, form)
    undone = _undone_rows(current.registry, form)
    known = {(row.texts, json.dumps(row.label)) for row in pool}
    taken_back = {(row.texts, json.dumps(row.label)) for row in undone} - known
    known |= taken_back
    new = [row for row in rows if (row.texts, json.dumps(row.label)) not in known]
    num_undone = sum((row.texts, json.dumps(row.label)) in taken_back for row in rows)
    found = collect.check(new, form.problem, [row.texts for row in frozen], form.keeps_last)
    learned, fresh = collect.split(found.rows, settings.held_out)
    if len(found.rows) < settings.min_examples or len(fresh) < _FEWEST_FRESH:
        dropped = ''.join(f'; {count} {what}' for what, count in found.dropped.items())
        raise UserError(
            f'{counted(len(found.rows), "new row")} can be learned from, {len(fresh)} of them held out: too few for a '
            f'round, which needs {settings.min_examples} and {_FEWEST_FRESH} held out '
            f'({len(rows) - len(new) - num_undone} were learned before{dropped}{_undone(num_undone)}). '
            'Collect more, or lower --min_examples or --held_out.'
        )
    _refuse_without_a_chance(form, fresh, settings, batch_size)
    replayed = collect.replay(
        pool, len(learned), settings.replay, [row.texts for row in found.rows], settings.seed + current.number
    )
    current.path.mkdir(parents=True, exist_ok=True)
    corrected = {row.texts for row in learned}  # a correction replaces what its text had before
    for name, of_table in (
        ('train', [*learned, *replayed]),
        ('fresh', fresh),
        ('frozen', frozen),
        ('pool', [*(row for row in pool if row.texts not in corrected), *learned]),
    ):
        form.write(current.table(name, form), of_table)
    about = {
        'round': current.number,
        'champion': current.registry.champion(),
        'source': source,
        'given': len(rows),
        'learned_before': len(rows) - len(new) - num_undone,
        'rolled_back': num_undone,
        'dropped': found.dropped,
        'learned': len(learned),
        'replayed': len(replayed),
        'fresh': len(fresh),
        'frozen': len(frozen),
        'settings': dataclasses.asdict(settings),
    }
    write_whole(current.description, json.dumps(about, ensure_ascii=False, indent=1) + '\n')
    return about


def _refuse_without_a_chance(form: Form, fresh: Sequence[Labelled], settings: Settings, batch_size: int) -> None:
    """Refuse fresh rows on which a challenger without any error would not be significantly better than the champion.

    Raises:
      UserError: the champion is right on too many of them.
    """
    if form.highest_score is None:
        return
    scores, metric = form.scores(form.model, fresh, batch_size)
    best = compare(scores, np.full_like(scores, form.highest_score), metric)
    if not best.differ:
        advice = ', or hold more of them out: --held_out=2' if settings.held_out > 2 else ''
        raise UserError(
            f'The champion has {metric} {abs(scores.mean()):.4f} on the {len(fresh)} fresh rows. Even a challenger '
            f'without an error would not be significantly better (p = {best.p_value:.4g}), so none is trained. Collect '
            f'more corrections{advice}.'
        )


def train_challenger(current: Round, form: Form, bindings: Sequence[tuple[str, str]], command: str) -> int:
    """Train the challenger from the champion, or continue its training; return the code of the run.

    Args:
      current: round, whose tables are written.
      form: form of the champion.
      bindings: (name, value as gin text) that override the champion's configuration.
      command: command that continues the round.
    """
    if RunDirectory(current.challenger).summary.is_file():
        return 0
    start = RunDirectory(current.path / 'start')
    if not start.config.is_file():  # which `save` writes last
        shutil.rmtree(start.path, ignore_errors=True)
        form.model.save(start.path)
    own = form.bindings | {
        'TRAIN_FILES': str(current.table('train', form)),
        'VALIDATION_FILES': str(current.table('frozen', form)),
        'INITIAL_CHECKPOINT_PATH': str(start),
        'MODEL_DIR': str(current.challenger),
    }
    paths = ('TRAIN_FILES', 'VALIDATION_FILES', 'INITIAL_CHECKPOINT_PATH', 'MODEL_DIR')
    own |= {name: os.path.abspath(own[name]) for name in paths}  # the challenger is served from any folder
    flags = [(name, repr(value)) for name, value in own.items()]
    return training.train([str(form.model.config)], [*bindings, *flags], command, is_part=True)


def compare_both(current: Round, form: Form, trust_modules: Sequence[str], batch_size: int) -> dict[str, Any]:
    """Compare champion and challenger on the frozen and the fresh rows, unless it has been done; return the result."""
    if current.comparison.is_file():
        return read_json(current.comparison)
    challenger = loading.load_with(current.challenger, [], trust_modules=trust_modules)
    found: dict[str, Any] = {}
    for name in ('frozen', 'fresh'):
        rows = form.read(current.table(name, form))
        (first, metric), (second, _) = (form.scores(m, rows, batch_size) for m in (form.model, challenger))
        found[name] = to_json(compare(first, second, metric))
    found['decision'], found['reason'] = decide(found['frozen'], found['fresh'])
    write_whole(current.comparison, json.dumps(found, indent=1) + '\n')
    return found


def decide(frozen: dict[str, Any], fresh: dict[str, Any]) -> tuple[str, str]:
    """Return `promoted` or `rejected`, and why: a challenger must win on fresh rows and not lose on frozen ones."""
    if frozen['differ'] and frozen['gain'] < 0:
        return 'rejected', 'significantly worse on the frozen examples'
    if fresh['differ'] and fresh['gain'] > 0:
        return 'promoted', 'significantly better on the fresh examples, and not worse on the frozen ones'
    return 'rejected', 'not significantly better on the fresh examples'


def promote(current: Round, found: dict[str, Any]) -> Decision:
    """Write the decision to the registry, once, and return it."""
    current.registry.decide(Decision(found['decision'], str(current.challenger), current.number, details=found))
    return next(d for d in current.registry.decisions() if d.round == current.number)


def to_json(comparison: Comparison) -> dict[str, Any]:
    """Return a comparison as JSON; `first` is the champion, `second` the challenger."""
    return {
        'examples': len(comparison.first),
        'metric': comparison.metric,
        'champion': abs(float(comparison.first.mean())),
        'challenger': abs(float(comparison.second.mean())),
        'gain': comparison.gain,
        'interval': comparison.interval,
        'p_value': comparison.p_value,
        'test': comparison.test,
        'differ': bool(comparison.differ),
    }


def _undone_rows(registry: Registry, form: Form) -> list[Labelled]:
    """Return the new rows of the rounds that were rolled back, which are not learned again without being asked to."""
    tables = [Round(registry, number) for number in registry.rolled_back_rounds()]
    paths = [t.table(name, form) for t in tables for name in ('train', 'fresh')]
    return [row for path in paths if path.is_file() for row in form.read(path)]


def _undone(count: int) -> str:
    """Return how many rows a rollback has taken back, for a message."""
    return f'; {count} of rounds that were rolled back, whose rows another --registry learns' if count else ''


def _known_rows(registry: Registry, form: Form) -> tuple[list[Labelled], list[Labelled]]:
    """Return the rows that may be replayed and the frozen ones: of the champion's round, or of its own table."""
    last = next((d for d in reversed(registry.decisions()) if d.model_dir == registry.champion() and d.round), None)
    if last is None:
        return form.rows('train'), form.rows('validation')
    tables = Round(registry, last.round)
    read = lambda name: form.read(tables.table(name, form))  # noqa: E731
    return read('pool'), [*read('frozen'), *read('fresh')]
