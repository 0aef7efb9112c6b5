"""python -m examples.recommendation.recommend --model=runs/shop --data=data/shop [--history="item0x3 item0x4"]

Ranks all items by their probability of being next in a history, and measures the ranking of the item that was next:

    HR@k    share of histories whose next item is among the first k
    NDCG@k  mean of 1 / log₂(1 + rank), 0 beyond rank k

over all items (no sampled negatives: Krichene and Rendle, "On sampled metrics for item recommendation", KDD 2020),
beside three baselines: the popularity of items, co-occurrence (in how many histories an item is together with those of
the history), and how often an item has followed the last one.
"""

from __future__ import annotations

import collections
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from examples import tables
from examples.recommendation.histories import SPECIAL
from palm_jax import api
from palm_jax.cli import command_line
from palm_jax.cli.parser import Parser, positive
from palm_jax.errors import UserError, closest, located
from palm_jax.predictors.language_model_predictor import LanguageModelPredictor
from palm_jax.special_ids import BOS_ID


def next_log_probabilities(model: Any, histories: Sequence[Sequence[int]], batch_size: int = 64) -> np.ndarray:
    """Return the log-probabilities of the next token, float32 [E, V].

    Args:
      model: trained model.
      histories: ids of the items of each history; of those longer than the model reads, the last are taken.
      batch_size: histories per forward pass.
    """
    length = model.data.length

    @jax.jit
    def last_logits(params: Any, tokens_BL: jax.Array, last_B: jax.Array) -> jax.Array:
        logits_BLV = model.model.apply({'params': params}, tokens_BL)
        return jax.nn.log_softmax(logits_BLV[np.arange(len(tokens_BL)), last_B])

    found = []
    for first in range(0, len(histories), batch_size):
        rows = [(BOS_ID, *history[-(length - 1) :]) for history in histories[first : first + batch_size]]
        tokens_BL, last_B = np.zeros((batch_size, length), np.int32), np.zeros(batch_size, np.int32)
        for i, row in enumerate(rows):
            tokens_BL[i, : len(row)], last_B[i] = row, len(row) - 1
        found.append(np.asarray(last_logits(model.params, tokens_BL, last_B))[: len(rows)])
    return np.concatenate(found)


def measure(scores_EV: np.ndarray, items_E: np.ndarray, k: int = 10) -> dict[str, float]:
    """Return HR@k and NDCG@k of the items that were next.

    Args:
      scores_EV: scores of all items; of equal ones, those with the smaller id come first.
      items_E: the item that was next.
      k: length of the list.
    """
    own_E1 = np.take_along_axis(scores_EV, items_E[:, None], axis=1)
    is_before_EV = (scores_EV > own_E1) | ((scores_EV == own_E1) & (np.arange(scores_EV.shape[1]) < items_E[:, None]))
    rank_E = 1 + is_before_EV.sum(axis=1)
    return {
        f'HR@{k}': float(np.mean(rank_E <= k)),
        f'NDCG@{k}': float(np.mean(np.where(rank_E <= k, 1 / np.log2(1 + rank_E), 0))),
    }


def popularity(histories: Sequence[Sequence[int]], size: int) -> np.ndarray:
    """Return how often each item is in the histories, [V]."""
    return np.bincount([item for history in histories for item in history], minlength=size).astype(np.float64)


def followers(histories: Sequence[Sequence[int]], size: int) -> np.ndarray:
    """Return how often an item has followed another, [V, V], with popularity as the last resort."""
    counts = collections.Counter(pair for history in histories for pair in itertools.pairwise(history))
    table_VV = np.zeros((size, size))
    for (before, after), count in counts.items():
        table_VV[before, after] = count
    popular_V = popularity(histories, size)
    return table_VV + popular_V / (1 + popular_V.sum())


def co_occurrence(histories: Sequence[Sequence[int]], size: int) -> np.ndarray:
    """Return in how many histories two different items are together, [V, V]."""
    has_HV = np.zeros((len(histories), size), np.float32)
    for number, history in enumerate(histories):
        has_HV[number, list(history)] = 1
    table_VV = has_HV.T @ has_HV
    np.fill_diagonal(table_VV, 0)
    return table_VV


def baselines(histories: Sequence[Sequence[int]], size: int) -> dict[str, np.ndarray]:
    """Return the scores that need no model, [H, V], by name."""
    together_VV = co_occurrence(histories, size)
    popular_V = popularity(histories, size)
    return {
        'what followed the last item': followers(histories, size)[[history[-1] for history in histories]],
        'co-occurrence': np.stack([together_VV[sorted(set(history))].sum(axis=0) for history in histories]),
        'popularity': np.broadcast_to(popular_V, (len(histories), size)),
    }


def main(arguments: Sequence[str]) -> int:
    """Measure a model on the test histories, or recommend for one."""
    parser = Parser(
        prog='python -m examples.recommendation.recommend',
        description=__doc__,
        example='python -m examples.recommendation.recommend --model=runs/shop --data=data/shop',
    )
    parser.add_argument('--model', required=True, help='MODEL_DIR of the model')
    parser.add_argument('--data', required=True, help='folder that histories.py wrote')
    parser.add_argument('--history', help='items of one user, separated by blanks; default: the test histories')
    parser.add_argument('--k', type=positive, default=10, help='length of the list')
    parser.add_argument(
        '--unseen',
        action='store_true',
        help='rank only items that the history lacks, where nobody takes an item twice, as in MovieLens',
    )
    options = parser.parse_args(arguments)
    model = api.load(options.model)
    if not isinstance(model.predictor, LanguageModelPredictor):
        raise UserError(f'--model={options.model} was trained {model.predictor.purpose}; train one with shop.gin.')
    vocabulary = model.data.vocabulary
    names = [vocabulary.decode([i]) for i in range(vocabulary.size)]
    items = {name: i for i, name in enumerate(names) if name and name not in SPECIAL}
    is_item_V = np.isin(np.arange(vocabulary.size), list(items.values()))

    def candidates(histories: Sequence[Sequence[int]]) -> np.ndarray:
        is_ranked_HV = np.tile(is_item_V, (len(histories), 1))
        for number, history in enumerate(histories if options.unseen else ()):
            is_ranked_HV[number, list(history)] = False
        return is_ranked_HV

    def scores(histories: Sequence[Sequence[int]]) -> np.ndarray:
        return next_log_probabilities(model, histories)[:, : vocabulary.size]

    if options.history is not None:
        history = _ids(options.history, items)
        titles = _titles(Path(options.data) / 'items.csv')
        (scores_V,), (is_ranked_V,) = scores([history]), candidates([history])
        order = [i for i in np.argsort(-scores_V, kind='stable') if is_ranked_V[i]]
        for i in order[: options.k]:
            print(f'{names[i]:<20} {np.exp(scores_V[i]):.3f}  {titles.get(names[i], "")}'.rstrip())
        return 0
    histories, next_items = [], []
    for row, (history, item) in tables.read(f'{options.data}/test.csv', '--data', 'history', 'item'):
        with located(row.location):
            histories.append(_ids(history, items))
            next_items.append(_ids(item, items)[-1])
    items_E, is_ranked_EV = np.array(next_items), candidates(histories)
    is_ranked_EV[np.arange(len(items_E)), items_E] = True  # also one that is taken again
    for name, scores_EV in {'this model': scores(histories), **baselines(histories, vocabulary.size)}.items():
        measured = measure(np.where(is_ranked_EV, scores_EV, -np.inf), items_E, options.k)
        print(f'{name:<28} ' + '  '.join(f'{metric} {value:.3f}' for metric, value in measured.items()))
    return 0


def _titles(path: Path) -> dict[str, str]:
    """Return the titles of items, where the folder of the data has some."""
    if not path.is_file():
        return {}
    return {item: title for _, (item, title) in tables.read(str(path), '--data', 'item', 'title')}


def _ids(history: str, items: dict[str, int]) -> list[int]:
    """Return the ids of items.

    Raises:
      UserError: there is none, or one is unknown.
    """
    names = history.split()
    if not names:
        raise UserError('A history needs at least one item.')
    for name in names:
        if name not in items:
            raise UserError(f'The item {name!r} is unknown.{closest(name, items)} There are {len(items):,} items.')
    return [items[name] for name in names]


if __name__ == '__main__':
    command_line.run(main)
