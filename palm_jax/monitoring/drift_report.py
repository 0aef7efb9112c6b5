"""Whether a trained model is asked what it was trained for: the tests of `drift` on its reference and on new inputs."""

from __future__ import annotations

import collections
import dataclasses
import html
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from tqdm import tqdm

from palm_jax.errors import UserError
from palm_jax.evenly_spaced import evenly_spaced
from palm_jax.monitoring import drift
from palm_jax.monitoring.drift import Finding
from palm_jax.predictors.embedding_predictor import EmbeddingPredictor
from palm_jax.predictors.label_predictor import LabelPredictor
from palm_jax.predictors.language_model_predictor import LanguageModelPredictor
from palm_jax.predictors.tag_predictor import TagPredictor
from palm_jax.reports import pages
from palm_jax.wording import counted

_FEWEST = 20


@dataclasses.dataclass(frozen=True)
class DriftReport:
    """What was found.

    Attributes:
      findings: results of all tests.
      num_reference: number of reference inputs.
      num_new: number of new inputs.
      label_shares: estimated shares of the labels of the new inputs beside those of the reference; empty where they
        cannot be estimated.
      notes: what could not be tested, in words.
    """

    findings: tuple[Finding, ...]
    num_reference: int
    num_new: int
    label_shares: dict[str, tuple[float, float]] = dataclasses.field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def verdict(self) -> drift.Level:
        """The largest level of all findings."""
        return drift.verdict(self.findings)

    def sentence(self) -> str:
        """Return the verdict in words."""
        found = [f.name for f in self.findings if f.level == self.verdict]
        if self.verdict == 'none':
            return f'No drift: {self.num_new:,} new inputs look like the {self.num_reference:,} of the reference.'
        advice = ' Label some of the new inputs, and retune the model.' if self.verdict == 'much' else ''
        return f'{self.verdict.capitalize()} drift: {"; ".join(found)}.{advice}'

    def to_json(self) -> dict[str, Any]:
        """Return the report as JSON."""
        return {
            'verdict': self.verdict,
            'reference_inputs': self.num_reference,
            'new_inputs': self.num_new,
            'findings': [dataclasses.asdict(f) for f in self.findings],
            'label_shares': {n: {'reference': r, 'new': q} for n, (r, q) in self.label_shares.items()},
            'notes': list(self.notes),
        }

    def rows(self) -> list[tuple[str, ...]]:
        """Return the findings as a table below a header."""
        header = ('what', 'drift', 'statistic', 'value', 'p', 'reference', 'new')
        return [header, *map(_row, self.findings)]

    def text(self) -> str:
        """Return the report for the terminal."""
        widths = [max(len(row[i]) for row in self.rows()) for i in range(5)]
        lines = ['  '.join(cell.ljust(w) for cell, w in zip(row, widths, strict=False)) for row in self.rows()]
        lines += [f'note: {note}' for note in self.notes]
        return '\n'.join([*lines, self.sentence()])

    def page(self, title: str) -> str:
        """Return the report as a web page."""
        tables: dict[str, pages.Table] = {'Tests': self.rows()}
        if self.label_shares:
            rows = [(name, f'{r:.1%}', f'{q:.1%}') for name, (r, q) in self.label_shares.items()]
            tables['Estimated shares of labels'] = [('label', 'reference', 'new'), *rows]
        if self.notes:
            tables['Notes'] = [('not tested',), *((note,) for note in self.notes)]
        page = pages.html_page(title, tables, [])
        return page.replace('</h1>', f'</h1><p><strong>{html.escape(self.sentence())}</strong></p>', 1)


def compare(
    model: Any,
    reference: Sequence[Any],
    new: Sequence[Any],
    labels: Sequence[Any] | None,
    batch_size: int,
    names: tuple[str, str] = ('the reference', 'the new inputs'),
) -> DriftReport:
    """Compare new inputs, and a model's outputs for them, with those of a reference.

    Args:
      model: trained model, an `api.TrainedModel`.
      reference: inputs that the model reads: its held-out part.
      new: new inputs.
      labels: encoded labels of the reference, for the estimate of the new shares of labels; None estimates none.
      batch_size: inputs per forward pass.
      names: what reference and new inputs are called in the message about too few of them.

    Raises:
      UserError: there are fewer than 20 inputs of one kind.
    """
    for what, inputs in zip(names, (reference, new), strict=True):
        if len(inputs) < _FEWEST:
            raise UserError(f'{counted(len(inputs), "text")} in {what}: drift is tested on at least {_FEWEST}.')
    texts = [[_text(given) for given in inputs] for inputs in (reference, new)]
    findings, notes = _of_texts(model, *texts)
    domain = drift.of_domain(texts[0], texts[1])
    findings += [domain] if domain else []
    notes += [] if domain else [f'domain classifier: it needs {_FEWEST} different texts of each kind']
    shares: dict[str, tuple[float, float]] = {}
    with tqdm(total=len(reference) + len(new), unit=' inputs', desc='outputs', leave=False) as progress:

        def predict(inputs: Sequence[Any]) -> list[Any]:
            found = []
            for first in range(0, len(inputs), 8 * batch_size):
                found += model.predict(inputs[first : first + 8 * batch_size], batch_size=batch_size)
                progress.update(len(inputs[first : first + 8 * batch_size]))
            return found

        if isinstance(model.predictor, LabelPredictor):
            of_outputs, shares = _of_labels(model, predict(reference), predict(new), labels)
            findings += of_outputs
            if model.data.labels and not shares:
                notes.append(f'shares of labels: {_why_no_shares(labels)}')
        elif isinstance(model.predictor, TagPredictor):
            findings += _of_entities(predict(reference), predict(new))
        elif isinstance(model.predictor, LanguageModelPredictor):
            findings.append(drift.of_numbers('bits per byte', *(_bits_per_byte(model, t, batch_size) for t in texts)))
        elif isinstance(model.predictor, EmbeddingPredictor):
            vectors = [np.stack(predict(inputs)) for inputs in (reference, new)]
            findings.append(drift.of_outputs([f'dimension {d}' for d in range(vectors[0].shape[1])], *vectors))
        else:
            notes.append('outputs: written answers are not compared, only the inputs')
    return DriftReport(tuple(findings), len(reference), len(new), shares, tuple(notes))


def _why_no_shares(labels: Sequence[Any] | None) -> str:
    if labels is None:
        return 'the reference has no labels, as the held-out part has'
    if np.ndim(labels[0]) != 0:
        return 'they are estimated for one class per text'
    return 'the answers to the reference do not tell the labels apart, such as one that is never predicted'


def _row(finding: Finding) -> tuple[str, ...]:
    p = '' if finding.p_value is None else f'{finding.p_value:.2g}'
    value = f'{finding.value:.4f}'
    return finding.name, finding.level, finding.statistic, value, p, finding.reference, finding.new


def _text(given: Any) -> str:
    """Return all texts of an input as one."""
    if isinstance(given, str):
        return given
    parts = given.values() if isinstance(given, dict) else given
    return '\n'.join(_text(part) for part in parts if isinstance(part, str | dict | list | tuple))


def _of_texts(model: Any, reference: Sequence[str], new: Sequence[str]) -> tuple[list[Finding], list[str]]:
    """Return what their lengths, their unknown tokens and their rare tokens show."""
    vocabulary = model.data.vocabulary
    ids = [[vocabulary.encode(text) for text in texts] for texts in (reference, new)]
    lengths = [np.array([len(row) for row in rows]) for rows in ids]
    findings, notes = [drift.of_numbers('length in tokens', *lengths)], []
    totals = [int(x.sum()) for x in lengths]
    unknown = getattr(vocabulary, 'unknown_id', None)
    if unknown is None:
        notes.append('unknown tokens: the vocabulary has none')
    else:
        counts = [sum(row.count(unknown) for row in rows) for rows in ids]
        findings.append(drift.of_shares('unknown tokens', *zip(counts, totals, strict=True)))
    # Words that are new: half of the reference stands in for new texts, the other half is what they are compared with.
    # Texts that are in this half have no word that it lacks, and say nothing.
    half = set(reference[::2])
    known = {w for t in half for w in t.lower().split()}
    words = [[w for t in texts if t not in half for w in t.lower().split()] for texts in (reference[1::2], new)]
    counts = [sum(w not in known for w in some) for some in words]
    findings.append(
        drift.of_shares('words that half of the reference lacks', *zip(counts, map(len, words), strict=True))
    )
    too_long = [(int((x > model.data.length).sum()), len(x)) for x in lengths]
    findings.append(drift.of_shares('texts that are cut', *too_long))
    return findings, notes


def _of_labels(
    model: Any, reference: Sequence[Any], new: Sequence[Any], labels: Sequence[Any] | None
) -> tuple[list[Finding], dict[str, tuple[float, float]]]:
    """Return what the outputs of a head that labels texts show, and the estimated shares of labels."""
    names = model.data.labels
    if not names:
        values = [np.array(x, float) for x in (reference, new)]
        return [
            drift.of_outputs(['number'], *(v[:, None] for v in values)),
            drift.of_numbers('predicted numbers', *values),
        ], {}
    to_json = model.predictor.to_json
    rows = [[to_json(p) for p in x] for x in (reference, new)]
    p_NC = [np.array([[r['probabilities'][name] for name in names] for r in x]) for x in rows]
    predicted = [[_joined(r['predicted']) for r in x] for x in rows]
    findings = [
        drift.of_outputs(names, *p_NC),
        drift.of_numbers('confidence', *(p.max(axis=1) for p in p_NC)),
        drift.of_categories('predicted labels', *predicted),
    ]
    if labels is None or np.ndim(labels[0]) != 0:
        return findings, {}
    of_reference = np.asarray(labels, int)
    shares = drift.label_shares(names, of_reference, *(p.argmax(axis=1) for p in p_NC))
    before = np.bincount(of_reference, minlength=len(names)) / len(of_reference)
    known = dict(zip(names, before, strict=True))
    return findings, {} if shares is None else {name: (float(known[name]), q) for name, q in shares.items()}


def _of_entities(reference: Sequence[Any], new: Sequence[Any]) -> list[Finding]:
    counts = [np.array([len(found) for found in x]) for x in (reference, new)]
    types = [[e['type'] for found in x for e in found] for x in (reference, new)]
    findings = [drift.of_numbers('entities per text', *counts)]
    return [*findings, drift.of_categories('types of entities', *types)] if all(types) else findings


def _bits_per_byte(model: Any, texts: Sequence[str], batch_size: int) -> np.ndarray:
    """Return the bits per byte of each text under the model."""
    scored = model.score([('', text) for text in texts], batch_size)
    results = []
    for likelihood, text in zip(scored, texts, strict=True):  # of a text that is cut, of the part that is scored
        tokens_per_byte = len(model.data.vocabulary.encode(text)) / max(len(text.encode()), 1)
        per_token = -likelihood.total / np.log(2) / max(len(likelihood.logprobs), 1)
        results.append(per_token * tokens_per_byte)
    return np.array(results)


def _joined(label: Any) -> str:
    return '|'.join(sorted(label)) if isinstance(label, list | tuple) else str(label)


def held_out(model: Any, most: int) -> tuple[list[Any], list[Any] | None]:
    """Return the inputs of the held-out part of a run, spread evenly, and their encoded labels if they have any.

    Raises:
      UserError: the run was not trained on a table.
    """
    data = model.data
    examples: Callable | None = getattr(data, 'examples', None)
    if examples is None:
        raise UserError('This run was not trained on a table with a held-out part: name a file with --reference=FILE.')
    found = list(examples('validation'))
    chosen = [found[i] for i in evenly_spaced(len(found), most)]
    if isinstance(model.predictor, LabelPredictor):
        inputs = [e.text if e.second_text is None else (e.text, e.second_text) for e in chosen]
        return inputs, [data.table.encode(e) for e in chosen]
    if isinstance(model.predictor, TagPredictor):
        return [list(e.words) for e in chosen], None
    if isinstance(model.predictor, EmbeddingPredictor):
        return [e.texts[0] for e in chosen], None
    texts = collections.OrderedDict((tuple(t.text for t in e.turns if not t.learned), None) for e in chosen)
    return ['\n'.join(turns) for turns in texts if turns], None
