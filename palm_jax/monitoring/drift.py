"""Tests of whether new inputs, and the outputs for them, are distributed as those of a reference.

- The population stability index Σ (q − p)·ln(q / p) over bins; by convention below 0.1 means none, above 0.25 much.
  Samples that are small have a large index by chance: n·m / (n + m)·PSI follows χ² with bins − 1 degrees of freedom.
- Kolmogorov–Smirnov tests of every output with a Bonferroni correction (Rabanser et al. 2019, arXiv 1810.11953).
- A classifier of the domain: how well a linear model tells new texts from those of the reference, as the area under
  the curve (AUC) of held-out folds.
- The new shares of labels from the predictions, corrected by the confusions of the reference (black-box shift
  estimation, Lipton et al. 2018, arXiv 1802.03916).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
from scipy import stats
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.pipeline import make_pipeline

Level = Literal['none', 'some', 'much']
LEVELS: tuple[Level, ...] = ('none', 'some', 'much')
ALPHA = 0.01  # significance level, before the correction for the number of tests
_BINS = 10
_PSI = (0.1, 0.25)
_KS = (0.0, 0.2)  # distance of the distributions, where it is significant
_AUC = (0.6, 0.75)
_FOLDS = 5
_FEWEST = 20  # texts of each kind, below which a test says nothing


@dataclasses.dataclass(frozen=True)
class Finding:
    """The result of one test.

    Attributes:
      name: what was compared.
      statistic: name of the statistic.
      value: its value.
      p_value: probability of a value this large without drift; None where there is none.
      level: drift that the test finds: `none`, `some` or `much`.
      reference: what the reference has, in words.
      new: what the new inputs have, in words.
    """

    name: str
    statistic: str
    value: float
    p_value: float | None
    level: Level
    reference: str = ''
    new: str = ''


def verdict(findings: Sequence[Finding]) -> Level:
    """Return the largest level of some findings."""
    return max((f.level for f in findings), key=LEVELS.index, default='none')


def of_numbers(name: str, reference: np.ndarray, new: np.ndarray) -> Finding:
    """Return the stability index of a number over bins of equally many reference values."""
    edges = np.unique(np.quantile(reference, np.linspace(0, 1, _BINS + 1)[1:-1]))
    counts = [np.bincount(np.searchsorted(edges, x, 'right'), minlength=len(edges) + 1) for x in (reference, new)]
    shown = [f'median {np.median(x):.4g}' for x in (reference, new)]
    return _stability(name, counts[0], counts[1], *shown)


def of_categories(name: str, reference: Sequence[str], new: Sequence[str]) -> Finding:
    """Return the stability index of categories."""
    kinds = sorted({*reference, *new})
    counts = [np.array([list(x).count(kind) for kind in kinds]) for x in (reference, new)]
    change = counts[1] / max(counts[1].sum(), 1) - counts[0] / max(counts[0].sum(), 1)
    widest = np.argsort(-np.abs(change), kind='stable')[:3]
    shown = [', '.join(f'{kinds[i]} {c[i] / max(c.sum(), 1):.1%}' for i in widest) for c in counts]
    return _stability(name, counts[0], counts[1], *shown)


def of_shares(name: str, reference: tuple[int, int], new: tuple[int, int]) -> Finding:
    """Return Fisher's exact test of two shares, each (count, of how many); twice the share counts as much drift."""
    table = [[count, total - count] for count, total in (reference, new)]
    p = float(stats.fisher_exact(table).pvalue)
    shares = [count / max(total, 1) for count, total in (reference, new)]
    difference = shares[1] - shares[0]
    significant = p < ALPHA and abs(difference) > 0.01
    level: Level = 'none' if not significant else 'much' if abs(difference) > 0.1 else 'some'
    return Finding(name, 'difference of shares', difference, p, level, *(f'{share:.2%}' for share in shares))


def of_outputs(names: Sequence[str], reference: np.ndarray, new: np.ndarray) -> Finding:
    """Return the Kolmogorov–Smirnov test of the output that differs most, corrected by Bonferroni.

    Args:
      names: names of S outputs.
      reference: outputs [N, S].
      new: outputs [M, S].
    """
    results = [stats.ks_2samp(reference[:, s], new[:, s]) for s in range(len(names))]
    s = min(range(len(names)), key=lambda i: (results[i].pvalue, -results[i].statistic))
    p = min(1.0, float(results[s].pvalue) * len(names))
    value = float(results[s].statistic)
    level = _level(value, _KS) if p < ALPHA else 'none'
    shown = [f'mean {x[:, s].mean():.4g}' for x in (reference, new)]
    return Finding(f'outputs, most: {names[s]}', 'Kolmogorov–Smirnov distance', value, p, level, *shown)


def of_domain(reference: Sequence[str], new: Sequence[str], seed: int = 0) -> Finding | None:
    """Return how well a linear model of words and characters tells new texts from the reference; None if they are few.

    Duplicates count once: a text that is in both says nothing about either.
    """
    first, second = dict.fromkeys(reference), dict.fromkeys(new)
    texts = [*(t for t in first if t not in second), *(t for t in second if t not in first)]
    is_new = np.array([t in second for t in texts], bool)
    if min(is_new.sum(), (~is_new).sum()) < _FEWEST:
        return None
    model = make_pipeline(
        TfidfVectorizer(analyzer='char_wb', ngram_range=(1, 3), sublinear_tf=True, max_features=20_000),
        LogisticRegression(max_iter=1000, class_weight='balanced'),
    )
    folds = StratifiedKFold(_FOLDS, shuffle=True, random_state=seed)
    scores = cross_val_predict(model, texts, is_new, cv=folds, method='decision_function')
    auc = float(roc_auc_score(is_new, scores))
    p = float(stats.mannwhitneyu(scores[is_new], scores[~is_new], alternative='greater').pvalue)
    level = _level(auc, _AUC) if p < ALPHA else 'none'
    counts = [f'{len(x):,} different texts' for x in (first, second)]
    return Finding('domain classifier', 'AUC', auc, p, level, *counts)


def label_shares(
    names: Sequence[str], labels: np.ndarray, predicted: np.ndarray, new_predicted: np.ndarray
) -> Mapping[str, float] | None:
    """Return the estimated shares of the labels of new inputs; None where the confusions cannot be inverted.

    Solves Σ_y P(predicted, y)·w_y = Q(predicted) for w, the ratio of new to reference shares, which must not be
    negative.

    Args:
      names: names of C classes.
      labels: class ids of the reference, int [N].
      predicted: predicted class ids of the reference, int [N].
      new_predicted: predicted class ids of the new inputs, int [M].
    """
    C = len(names)
    joint_PC = np.zeros((C, C))
    np.add.at(joint_PC, (predicted, labels), 1 / len(labels))
    present = np.flatnonzero(joint_PC.sum(axis=0))
    square = joint_PC[np.ix_(present, present)]
    if np.linalg.matrix_rank(square) < len(present):
        return None
    new_P = np.bincount(new_predicted, minlength=C) / len(new_predicted)
    ratio = np.maximum(np.linalg.solve(square, new_P[present]), 0)
    shares = ratio * joint_PC.sum(axis=0)[present]
    total = shares.sum()
    return {names[int(c)]: float(s / total) for c, s in zip(present, shares, strict=True)} if total else None


def _stability(name: str, reference: np.ndarray, new: np.ndarray, *shown: str) -> Finding:
    """Return the index of counts per bin, of which half a count is added to each so that none is empty."""
    p, q = ((counts + 0.5) / (counts.sum() + 0.5 * len(counts)) for counts in (reference, new))
    value = float(((q - p) * np.log(q / p)).sum())
    n, m = int(reference.sum()), int(new.sum())
    p_value = float(stats.chi2.sf(value * n * m / (n + m), len(reference) - 1)) if len(reference) > 1 else 1.0
    level = _level(value, _PSI) if p_value < ALPHA else 'none'
    return Finding(name, 'PSI', value, p_value, level, *shown)


def _level(value: float, limits: tuple[float, float]) -> Level:
    return LEVELS[sum(value >= limit for limit in limits)]
