"""How good a classifier is: the report of a run that trained a head."""

from __future__ import annotations

import dataclasses
import functools
import html
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np
from sklearn import metrics as sk
from tqdm import tqdm

from palm_jax.partitioning import shard_batch
from palm_jax.training.finished import Finished
from palm_jax.training.head_losses import scores_of
from palm_jax.training.report import plot_losses

_BOOTSTRAPS, _CONFIDENCE = 1000, 0.95
_WORST = 20


@dataclasses.dataclass(frozen=True)
class HeadReporter:
    """Predicts the held-out part when a run ends, measures it, and writes it down.

    Attributes:
      kind: what the labels are, as of `LabelledTable`.
    """

    kind: Literal['class', 'labels', 'number'] = 'class'

    def __call__(self, finished: Finished) -> HeadReport:
        """Scores every held-out example."""
        data, model = finished.data, finished.model
        predict = jax.jit(lambda state, batch: scores_of(model, state.all_params, batch))
        scores, labels = [], []
        for batch in tqdm(data.validation(finished.batch_size), desc='predicting', unit=' batches', leave=False):
            real = batch['label_weights'] > 0
            scores.append(np.asarray(predict(finished.state, shard_batch(batch, finished.mesh)), np.float64)[real])
            labels.append(batch['labels'][real])
        scores, labels = np.concatenate(scores), np.concatenate(labels)
        texts = [e.text if e.second_text is None else f'{e.text} / {e.second_text}' for e in data.validation_examples]
        return HeadReport(self.kind, finished, finished.evaluate()['loss'].value(), data.labels, texts, scores, labels)


@dataclasses.dataclass(frozen=True)
class HeadReport:
    """What a head reaches on held-out examples.

    Attributes:
      kind: class, labels or number.
      finished: the run.
      loss: mean over the held-out examples.
      names: of the classes, in the order of the scores.
      texts: of the examples.
      scores: [E, C] float64, before softmax or sigmoid.
      labels: what is right: int [E], float [E, C] or float [E].
    """

    kind: str
    finished: Finished
    loss: float
    names: Sequence[str]
    texts: Sequence[str]
    scores: np.ndarray
    labels: np.ndarray

    @property
    def step(self) -> int:
        """Steps taken."""
        return self.finished.step

    @functools.cached_property
    def probabilities(self) -> np.ndarray:
        """[E, C]: softmax over classes, or sigmoid of every label."""
        if self.kind == 'labels':
            return 1 / (1 + np.exp(-self.scores))
        shifted = np.exp(self.scores - self.scores.max(axis=1, keepdims=True))
        return shifted / shifted.sum(axis=1, keepdims=True)

    @functools.cached_property
    def predicted(self) -> np.ndarray:
        """The labels' counterpart: the likeliest class, the labels above one half, the number."""
        return {
            'class': lambda: self.scores.argmax(axis=1),
            'labels': lambda: (self.scores > 0).astype(np.float64),
            'number': lambda: self.scores[:, 0],
        }[self.kind]()

    @functools.cached_property
    def measures(self) -> dict[str, float]:
        """Every number that the report gives of the whole, by name."""
        return measure(self.kind, self.labels, self.predicted, None if self.kind == 'number' else self.probabilities)

    @functools.cached_property
    def interval(self) -> tuple[float, float]:
        """The 95% interval of the main measure, by resampling the examples a thousand times."""
        rng, values = np.random.default_rng(0), []
        function = _RESAMPLED[next(iter(self.measures))]
        for _ in range(_BOOTSTRAPS):
            rows = rng.integers(0, len(self.labels), len(self.labels))
            values.append(function(self.labels[rows], self.predicted[rows]))
        tail = 100 * (1 - _CONFIDENCE) / 2
        low, high = np.nanpercentile(values, [tail, 100 - tail])
        return float(low), float(high)

    def values(self) -> dict[str, float]:
        """For the writers."""
        return {'validation/loss': self.loss} | {f'validation/{k}': v for k, v in self.measures.items()}

    def write(self, model_dir: Path) -> None:
        """report.md, report.html, predictions.jsonl, summary.json and the pictures in MODEL_DIR."""
        measures = self.measures
        main = next(iter(measures))
        summary = {
            'step': self.step,
            'seconds': self.finished.seconds,
            'loss': self.loss,
            **measures,
            f'{main}_interval': self.interval,
            'trained_parameters': self.finished.plan.num_trained,
            'parameters': self.finished.plan.num_params,
            'checkpoint': str(self.finished.checkpoint),
        }
        (model_dir / 'summary.json').write_text(json.dumps(summary, indent=2) + '\n')
        with (model_dir / 'predictions.jsonl').open('w') as file:
            for row in self._predictions:
                file.write(json.dumps(row, ensure_ascii=False) + '\n')
        plot_losses(model_dir)
        pictures = ['loss.png']
        if self.kind == 'class':
            plot_confusion(self.labels, self.predicted, self.names, model_dir / 'confusion.png')
            pictures.append('confusion.png')
        sections = self._sections(summary)
        (model_dir / 'report.md').write_text(_markdown(model_dir.name, sections, pictures))
        (model_dir / 'report.html').write_text(_html(model_dir.name, sections, pictures))

    def text(self, model_dir: Path, continue_command: str) -> str:
        """What the terminal shows."""
        measures = self.measures
        main, value = next(iter(measures.items()))
        low, high = self.interval
        rest = ', '.join(f'{name.replace("_", " ")} {v:.4f}' for name, v in list(measures.items())[1:])
        table = f'{self._class_table()}\n' if 0 < len(self.names) <= 20 else ''
        return (
            f'\n{table}validation {main.replace("_", " ")}  {value:.4f}  (95% interval {low:.4f} to {high:.4f}, '
            f'{len(self.labels):,} examples)\n'
            f'also       {rest}\n'
            f'trained    {self.finished.plan.trained_summary()}\n'
            f'report     {model_dir / "report.html"} (and report.md)\n'
            f'predictions {model_dir / "predictions.jsonl"}\n'
            f'checkpoint {self.finished.checkpoint}\n'
            f'continue with {continue_command}'
        )

    def _class_table(self) -> str:
        kwargs = {'labels': np.arange(len(self.names)), 'target_names': list(self.names), 'zero_division': 0}
        return sk.classification_report(self.labels, self.predicted, digits=3, **kwargs)

    @functools.cached_property
    def _predictions(self) -> list[dict[str, Any]]:
        rows = []
        for i, text in enumerate(self.texts):
            if self.kind == 'number':
                rows.append({'text': text, 'label': float(self.labels[i]), 'predicted': float(self.predicted[i])})
                continue
            p = self.probabilities[i]
            if self.kind == 'class':
                label, predicted = self.names[self.labels[i]], self.names[self.predicted[i]]
            else:
                label, predicted = (
                    [n for n, on in zip(self.names, v[i], strict=True) if on] for v in (self.labels, self.predicted)
                )
            likeliest = np.argsort(-p)[:5]
            rows.append(
                {
                    'text': text,
                    'label': label,
                    'predicted': predicted,
                    'probabilities': {self.names[c]: round(float(p[c]), 6) for c in likeliest},
                }
            )
        return rows

    def _sections(self, summary: dict[str, Any]) -> list[tuple[str, list[tuple[str, ...]]]]:
        """(title, table) of everything the report says; a table's first row is its header."""
        plain = [(k, f'{v:.4f}' if isinstance(v, float) else str(v)) for k, v in summary.items()]
        sections = [
            ('Measures', [('what', 'value'), *plain]),
            ('What was trained', [('what', 'value'), *self.finished.plan.cost().items()]),
        ]
        if self.kind == 'class':
            p, r, f, n = sk.precision_recall_fscore_support(
                self.labels, self.predicted, labels=np.arange(len(self.names)), zero_division=0
            )
            rows = [(name, f'{p[c]:.3f}', f'{r[c]:.3f}', f'{f[c]:.3f}', str(n[c])) for c, name in enumerate(self.names)]
            sections.append(('Classes', [('class', 'precision', 'recall', 'F1', 'examples'), *rows]))
        sections.append(('The worst errors', self._worst()))
        return sections

    def _worst(self) -> list[tuple[str, ...]]:
        """The examples whose right answer the model gave the least."""
        if self.kind == 'number':
            badness = np.abs(self.predicted - self.labels)
        elif self.kind == 'class':
            badness = -self.probabilities[np.arange(len(self.labels)), self.labels]
            badness[self.predicted == self.labels] = -np.inf
        else:
            badness = np.abs(self.probabilities - self.labels).max(axis=1)
            badness[(self.predicted == self.labels).all(axis=1)] = -np.inf
        rows, predictions = [('text', 'label', 'predicted')], self._predictions
        for i in np.argsort(-badness)[:_WORST]:
            if np.isfinite(badness[i]):
                row = predictions[i]
                rows.append((row['text'], str(row['label']), str(row['predicted'])))
        return rows


def measure(kind: str, labels: np.ndarray, predicted: np.ndarray, probabilities: np.ndarray | None) -> dict[str, float]:
    """The measures of held-out predictions; the first one is the main one.

    Args:
      kind: class, labels or number.
      labels, predicted: as of `HeadReport`.
      probabilities: [E, C], not of numbers.

    Returns:
      scikit-learn's measures by name. `area_under_roc` is the mean over classes, one against
      the rest, of the classes that occur and do not make up everything; `calibration_error` is
      the expected one over ten bins of confidence (Guo et al., arXiv 1706.04599).
    """
    if kind == 'number':
        squared = float(np.mean(np.square(predicted - labels)))
        varied = len(labels) > 1 and np.std(labels) > 0 and np.std(predicted) > 0
        ranks = [np.unique(x, return_inverse=True)[1] for x in (labels, predicted)]
        return {
            'pearson': float(np.corrcoef(labels, predicted)[0, 1]) if varied else float('nan'),
            'spearman': _spearman(labels, predicted) if varied and max(map(np.ptp, ranks)) else float('nan'),
            'squared_error': squared,
            'absolute_error': float(np.mean(np.abs(predicted - labels))),
        }
    result = {'accuracy': float(sk.accuracy_score(labels, predicted))}
    for average in ('macro', 'weighted'):
        p, r, f, _ = sk.precision_recall_fscore_support(labels, predicted, average=average, zero_division=0)
        result |= {f'{average}_f1': float(f), f'{average}_precision': float(p), f'{average}_recall': float(r)}
    one_hot = labels if kind == 'labels' else np.eye(probabilities.shape[1])[labels]
    mixed = [c for c in range(one_hot.shape[1]) if 0 < one_hot[:, c].sum() < len(one_hot)]
    areas = [sk.roc_auc_score(one_hot[:, c], probabilities[:, c]) for c in mixed]
    result['area_under_roc'] = float(np.mean(areas)) if areas else float('nan')
    if kind == 'class':
        result['matthews'] = float(sk.matthews_corrcoef(labels, predicted))
        result['calibration_error'] = calibration_error(probabilities.max(axis=1), predicted == labels)
    return result


def calibration_error(confidence: np.ndarray, correct: np.ndarray, bins: int = 10) -> float:
    """Σ_b n_b / n · |accuracy_b − confidence_b| over equal bins of confidence (b−1, b]/bins."""
    index = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    gaps = [
        np.sum(index == b) * abs(correct[index == b].mean() - confidence[index == b].mean())
        for b in range(bins)
        if np.any(index == b)
    ]
    return float(np.sum(gaps) / len(confidence))


def _spearman(a: np.ndarray, b: np.ndarray) -> float:
    from scipy.stats import spearmanr

    return float(spearmanr(a, b).statistic)


def _pearson(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.corrcoef(a, b)[0, 1]) if np.std(a) and np.std(b) else float('nan')


def _exact(a: np.ndarray, b: np.ndarray) -> float:
    same = a == b
    return float(np.mean(same if same.ndim == 1 else same.all(axis=1)))


_RESAMPLED: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {'accuracy': _exact, 'pearson': _pearson}


def plot_confusion(labels: np.ndarray, predicted: np.ndarray, names: Sequence[str], path: Path) -> None:
    """The confusion matrix, a row a true class, in shares of the row; counts are written in small ones."""
    import matplotlib

    matplotlib.use('Agg')
    from matplotlib import pyplot

    counts = sk.confusion_matrix(labels, predicted, labels=np.arange(len(names)))
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    size = min(4 + 0.22 * len(names), 20)
    figure, axes = pyplot.subplots(figsize=(size, size), layout='constrained')
    image = axes.imshow(shares, cmap='Blues', vmin=0, vmax=1)
    ticks, small = np.arange(len(names)), 6 if len(names) > 30 else 8
    axes.set_xticks(ticks, names, rotation=90, fontsize=small)
    axes.set_yticks(ticks, names, fontsize=small)
    axes.set(xlabel='predicted', ylabel='true')
    if len(names) <= 20:
        for i, j in np.ndindex(*counts.shape):
            axes.text(
                j, i, counts[i, j], ha='center', va='center', fontsize=small, color='w' if shares[i, j] > 0.5 else 'k'
            )
    figure.colorbar(image, shrink=0.6, label='share of the true class')
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def _markdown(title: str, sections: list[tuple[str, list[tuple[str, ...]]]], pictures: list[str]) -> str:
    def cell(value: str) -> str:
        return value.replace('|', '\\|').replace('\n', ' ')

    lines = [f'# {title}', '', *(f'![{p}]({p})' for p in pictures), '']
    for heading, (header, *rows) in sections:
        lines += [f'## {heading}', '', f'| {" | ".join(header)} |', '|' + '---|' * len(header)]
        lines += [f'| {" | ".join(map(cell, row))} |' for row in rows] + ['']
    return '\n'.join(lines)


def _html(title: str, sections: list[tuple[str, list[tuple[str, ...]]]], pictures: list[str]) -> str:
    style = (
        'body{font:15px system-ui,sans-serif;margin:2rem auto;max-width:70rem;padding:0 1rem}'
        'table{border-collapse:collapse}td,th{border-bottom:1px solid #ddd;padding:.25rem .75rem;text-align:left}'
        'img{max-width:100%}'
    )
    parts = [f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{html.escape(title)}</title>']
    parts += [f'<style>{style}</style><h1>{html.escape(title)}</h1>']
    parts += [f'<img src="{p}" alt="{p}">' for p in pictures]
    for heading, (header, *rows) in sections:
        parts.append(f'<h2>{html.escape(heading)}</h2><table><tr>')
        parts += [f'<th>{html.escape(h)}</th>' for h in header]
        parts += ['<tr>' + ''.join(f'<td>{html.escape(c)}</td>' for c in row) for row in rows]
        parts.append('</table>')
    return '\n'.join(parts) + '\n'
