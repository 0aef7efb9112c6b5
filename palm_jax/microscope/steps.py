"""The batch of any step of a run, token by token. A batch is a function of the seed, the step and what was skipped."""

from __future__ import annotations

import codecs
import dataclasses
import html
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from palm_jax.errors import UserError
from palm_jax.microscope.token_losses import example_losses, slices, token_losses
from palm_jax.run_directory import RunDirectory
from palm_jax.training.batch_sizes import BatchSizes
from palm_jax.training.losses import LanguageModelLoss, has_row_losses
from palm_jax.training.spikes import SpikeGuard

_STYLE = (
    'body{font:15px system-ui,sans-serif;margin:2rem auto;max-width:70rem;padding:0 1rem}'
    'p.row{line-height:1.9;white-space:pre-wrap;border-top:1px solid #ddd;padding-top:.5rem}'
    '.off{color:#999}'
)
_RED = '210,60,30'


@dataclasses.dataclass(frozen=True)
class Row:
    """A sequence of a batch.

    Attributes:
      number: number of the sequence in the data of the run.
      tokens: text of each target, or of each input where a head is trained.
      weights: weight of each in the loss; of a head the weight of its label, or none.
      losses: loss of each token in nats; empty for a head.
      loss: mean loss of the sequence; None where the loss compares the sequences of a batch.
      label: label in words; empty without a head.
    """

    number: int
    tokens: tuple[str, ...]
    weights: tuple[float, ...]
    losses: tuple[float, ...]
    loss: float | None
    label: str = ''


@dataclasses.dataclass(frozen=True)
class Step:
    """The batch of a step.

    Attributes:
      step: number of the step, from 1 as in the log.
      first: number of its first sequence.
      size: number of sequences.
      rows: those that were looked at.
    """

    step: int
    first: int
    size: int
    rows: tuple[Row, ...]


def batch_of(model: Any, model_dir: str | Path, step: int) -> tuple[int, int]:
    """Return the number of the first sequence of a step's batch, and the number of sequences.

    Args:
      model: trained model, an `api.TrainedModel`.
      model_dir: MODEL_DIR, whose skipped batches count.
      step: step, from 1 as in the log.

    Raises:
      UserError: the run has no such step.
    """
    last = model.run.get('total_steps')
    if step < 1 or (last is not None and step > last):
        raise UserError(f'--step={step}: the run has steps 1 to {last:,}.')
    sizes = BatchSizes.of(model.run['batch_size'])
    skipped = SpikeGuard(None, Path(model_dir)).offset(step - 1)
    return sizes.before(step - 1) + skipped, sizes.at(step - 1)


def look(model: Any, model_dir: str | Path, step: int, most: int) -> Step:
    """Return the batch of a step, with the losses of the loaded model.

    Args:
      model: trained model, an `api.TrainedModel`; the losses are those of its checkpoint.
      model_dir: MODEL_DIR.
      step: step, from 1 as in the log.
      most: most rows.
    """
    first, size = batch_of(model, model_dir, step)
    model.data.prepare(RunDirectory(Path(model_dir)))
    batch = model.data.batch(first, min(size, most))
    count = len(batch['decoder_input_tokens'])
    loss = model.run.get('loss') or LanguageModelLoss()
    means: list[float | None] = [None] * count
    if has_row_losses(loss):
        for start, part in slices(batch, 1):
            means[start] = float(example_losses(loss, model.model, False, model.params, {}, part)[0][0])
    has_targets = 'decoder_target_tokens' in batch
    losses = None
    if has_targets:
        losses = np.concatenate(
            [np.asarray(token_losses(model.model, model.params, part)) for _, part in slices(batch, 1)]
        )
    rows = [_row(model, first + i, {k: v[i] for k, v in batch.items()}, means[i], losses, i) for i in range(count)]
    return Step(step, first, size, tuple(rows))


def _row(
    model: Any, number: int, features: dict[str, np.ndarray], mean: float | None, losses: np.ndarray | None, i: int
) -> Row:
    name = 'input' if losses is None else 'target'
    ids = features[f'decoder_{name}_tokens']
    used = int(np.flatnonzero(ids)[-1]) + 1 if np.any(ids) else 0
    weights = features.get('decoder_loss_weights', features.get('label_weights', np.zeros(())))
    of_tokens = weights[:used] if np.ndim(weights) else np.zeros(0)
    label = ''
    if 'labels' in features:
        chosen = features['labels']
        label = model.data.describe_label(chosen[weights > 0] if np.ndim(weights) else chosen)
    return Row(
        number,
        texts_of([int(t) for t in ids[:used]], model.data.vocabulary),
        tuple(float(w) for w in of_tokens),
        () if losses is None else tuple(float(x) for x in losses[i, :used]),
        mean,
        label,
    )


def texts_of(ids: Sequence[int], vocabulary: Any) -> tuple[str, ...]:
    """Return the text of each token; a character of several tokens belongs to the last of them.

    Args:
      ids: token ids.
      vocabulary: vocabulary of the ids; tokens that add no text, such as special ones, are shown as it decodes them.
    """
    decoder = codecs.getincrementaldecoder('utf-8')('replace')
    texts = []
    for i in ids:
        added = vocabulary.token_bytes(i)
        texts.append(decoder.decode(b'', True) + vocabulary.decode([i]) if added is None else decoder.decode(added))
    rest = decoder.decode(b'', True)
    return (*texts[:-1], texts[-1] + rest) if texts else ()


def as_text(found: Step, shown: int = 3) -> str:
    """Return a step for the terminal: what the loss does not count is in ⟦ ⟧, and surprising tokens are named."""
    last = found.first + found.size - 1
    lines = [f'step {found.step:,}: sequences {found.first:,} to {last:,}, {len(found.rows)} of {found.size} shown']
    for row in found.rows:
        label = f', label {row.label}' if row.label else ''
        lines += [f'--- sequence {row.number:,}: {_loss(row)}{label}', f'    {_masked(row)!r}']
        worst = [i for i in np.argsort([-x for x in row.losses], kind='stable') if row.weights[i] > 0][:shown]
        if worst:
            surprises = ', '.join(f'{row.tokens[i]!r} {row.losses[i]:.2f}' for i in worst)
            lines.append(f'    most surprising: {surprises}')
    return '\n'.join(lines)


def _loss(row: Row) -> str:
    return 'no loss of its own: the texts of a batch are compared' if row.loss is None else f'loss {row.loss:.4f}'


def _masked(row: Row) -> str:
    if not row.losses:
        return ''.join(row.tokens)
    parts, is_open = [], False
    for token, weight in zip(row.tokens, row.weights, strict=True):
        if (weight == 0) != is_open:
            parts.append('⟧' if is_open else '⟦')
            is_open = not is_open
        parts.append(token)
    return ''.join([*parts, '⟧' if is_open else ''])


def as_html(found: Step, notes: Sequence[str]) -> str:
    """Return a step as a web page: tokens on a background as red as their loss, those that do not count in grey."""
    parts = [f'<!doctype html><html lang="en"><meta charset="utf-8"><title>Step {found.step:,}</title>']
    parts += [f'<style>{_STYLE}</style><h1>Step {found.step:,}</h1>', *(f'<p>{html.escape(n)}</p>' for n in notes)]
    for row in found.rows:
        label = f', label {html.escape(row.label)}' if row.label else ''
        parts.append(f'<p class="row"><strong>{row.number:,}: {_loss(row)}{label}</strong>\n{_tokens(row)}</p>')
    return '\n'.join(parts) + '\n'


def _tokens(row: Row) -> str:
    if not row.losses:
        return html.escape(''.join(row.tokens))
    parts = []
    for token, weight, loss in zip(row.tokens, row.weights, row.losses, strict=True):
        strength = 1 - math.exp(-max(loss, 0) / 3)
        style = f'style="background:rgba({_RED},{strength:.2f})"' if weight > 0 else 'class="off"'
        parts.append(f'<span {style} title="{loss:.3f}">{html.escape(token)}</span>')
    return ''.join(parts)


def to_json(found: Step) -> dict[str, Any]:
    """Return a step as JSON."""
    return dataclasses.asdict(found)
