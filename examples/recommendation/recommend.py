"""python -m examples.recommendation.recommend --model=runs/shop --data=data/shop [--history="item0x3 item0x4"]

Ranks all items by their probability of being next in a history, and measures the ranking of the item that was next:

    HR@k    share of histories whose next item is among the first k
    NDCG@k  mean of 1 / log₂(1 + rank), 0 beyond rank k

over all items (no sampled negatives: Krichene and Rendle, "On sampled metrics for item recommendation", KDD 2020),
beside two baselines: the popularity of items, and how often an item has followed the last one of the history.
"""

from __future__ import annotations

import collections
import itertools
from collections.abc import Sequence
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
    options = parser.parse_args(arguments)
    model = api.load(options.model)
    if not isinstance(model.predictor, LanguageModelPredictor):
        raise UserError(f'--model={options.model} was trained {model.predictor.purpose}; train one with shop.gin.')
    vocabulary = model.data.vocabulary
    names = [vocabulary.decode([i]) for i in range(vocabulary.size)]
    items = {name: i for i, name in enumerate(names) if name and name not in SPECIAL}
    is_item_V = np.isin(np.arange(vocabulary.size), list(items.values()))

    def scores(histories: Sequence[Sequence[int]]) -> np.ndarray:
        return np.where(is_item_V, next_log_probabilities(model, histories)[:, : vocabulary.size], -np.inf)

    if options.history is not None:
        history = _ids(options.history, items)
        (scores_V,) = scores([history])
        for i in np.argsort(-scores_V, kind='stable')[: min(options.k, len(items))]:
            print(f'{names[i]:<20} {np.exp(scores_V[i]):.3f}')
        return 0
    histories, next_items = [], []
    for row, (history, item) in tables.read(f'{options.data}/test.csv', '--data', 'history', 'item'):
        with located(row.location):
            histories.append(_ids(history, items))
            next_items.append(_ids(item, items)[-1])
    items_E = np.array(next_items)
    last_E = [history[-1] for history in histories]
    popular_V = popularity(histories, vocabulary.size)
    contenders = {
        'this model': scores(histories),
        'what followed the last item': followers(histories, vocabulary.size)[last_E],
        'popularity': np.broadcast_to(popular_V, (len(histories), vocabulary.size)),
    }
    for name, scores_EV in contenders.items():
        measured = measure(np.where(is_item_V, scores_EV, -np.inf), items_E, options.k)
        print(f'{name:<28} ' + '  '.join(f'{metric} {value:.3f}' for metric, value in measured.items()))
    return 0


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
