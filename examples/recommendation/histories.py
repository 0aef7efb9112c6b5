"""python -m examples.recommendation.histories FOLDER [--movielens=ml-100k/u.data]

Writes what a recommender learns from: train.csv (`text`: the items of a user in order of time, without the last one),
test.csv (`history`, `item`: the last one) and a vocabulary in which every item is a token (tokenizer.json).

Without --movielens the histories are invented: an item belongs to one of several kinds; a user takes every item of a
kind, or every second or fourth, and sometimes changes the kind. What comes next therefore depends on more than the last
item. With --movielens they are those of a file with the columns user, item, rating and time, separated by tabs, such as
u.data of MovieLens-100k (grouplens.org/datasets/movielens/100k).
"""

from __future__ import annotations

import json
import random
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from examples import tables
from palm_jax.cli import command_line
from palm_jax.cli.parser import Parser, positive
from palm_jax.errors import UserError
from palm_jax.wording import counted

_KINDS, _ITEMS_OF_A_KIND = 8, 15
_CHANGE = 0.15  # probability of another kind at every item
_STRIDES = (1, 2, 4)
_FEWEST, _MOST = 3, 60  # items of a history; of longer ones the last are taken
SPECIAL = ('<pad>', '</s>', '<s>', '<unk>')


def invented(users: int, seed: int = 0) -> list[list[str]]:
    """Return invented histories, each a list of items."""
    rng, histories = random.Random(seed), []
    for _ in range(users):
        kind, place, stride, items = rng.randrange(_KINDS), rng.randrange(_ITEMS_OF_A_KIND), rng.choice(_STRIDES), []
        for _ in range(rng.randint(8, 20)):
            if rng.random() < _CHANGE:
                kind, place = rng.randrange(_KINDS), rng.randrange(_ITEMS_OF_A_KIND)
            items.append(f'item{kind}x{place}')
            place = (place + stride) % _ITEMS_OF_A_KIND
        histories.append(items)
    return histories


def movielens(path: Path) -> list[list[str]]:
    """Return the histories of a file with the columns user, item, rating and time.

    Raises:
      UserError: the file does not exist, or a line has other columns.
    """
    rows = defaultdict(list)
    try:
        lines = path.read_text(encoding='utf-8').splitlines()
    except OSError as error:
        raise UserError(f'--movielens={path} cannot be read: {error.strerror or error}.') from None
    except UnicodeDecodeError as error:
        raise UserError(
            f'--movielens={path} is not a file of ratings: byte {error.start + 1:,} is not UTF-8. Name u.data, whose '
            'lines are user, item, rating and time, separated by tabs.'
        ) from None
    for number, line in enumerate(lines, 1):
        try:
            user, item, _, time = line.split('\t')
            rows[user].append((int(time), f'item{item}'))
        except ValueError:
            raise UserError(
                f'{path}, line {number}: expected user, item, rating and time, separated by tabs.'
            ) from None
    return [[item for _, item in sorted(row)] for row in rows.values()]


def tokenizer(items: Sequence[str]) -> dict:
    """Return a `tokenizer.json` in which every item is a token."""
    names = [*SPECIAL, *items]
    special = [
        {
            'id': i,
            'content': name,
            'special': True,
            **dict.fromkeys(('single_word', 'lstrip', 'rstrip', 'normalized'), False),
        }
        for i, name in enumerate(SPECIAL)
    ]
    vocabulary = {name: i for i, name in enumerate(names)}
    return {
        'version': '1.0',
        'added_tokens': special,
        'normalizer': None,
        'pre_tokenizer': {'type': 'WhitespaceSplit'},
        'post_processor': None,
        'decoder': None,
        'truncation': None,
        'padding': None,
        'model': {'type': 'WordLevel', 'vocab': vocabulary, 'unk_token': '<unk>'},
    }


def main(arguments: Sequence[str]) -> int:
    """Write the files."""
    parser = Parser(
        prog='python -m examples.recommendation.histories',
        description=__doc__,
        example='python -m examples.recommendation.histories data/shop',
    )
    parser.add_argument('folder', type=Path, metavar='FOLDER', help='folder to write to')
    parser.add_argument('--movielens', type=Path, help='file of ratings; default: invented histories')
    parser.add_argument('--users', type=positive, help='number of invented histories; default: 2000')
    options = parser.parse_args(arguments)
    if options.users and options.movielens:
        raise UserError('--users has no effect with --movielens, whose users are those of the file. Leave one out.')
    found = movielens(options.movielens) if options.movielens else invented(options.users or 2000)
    histories = [items[-_MOST:] for items in found if len(items) >= _FEWEST]
    if not histories:
        raise UserError(
            f'--movielens={options.movielens} has {counted(len(found), "user")}, none of them with {_FEWEST} items or '
            'more, so that there is no history to learn from.'
        )
    options.folder.mkdir(parents=True, exist_ok=True)
    items = sorted({item for history in histories for item in history})
    content = {'tokenizer.json': tokenizer(items), 'tokenizer_config.json': {'bos_token': '<s>', 'eos_token': '</s>'}}
    for name, value in content.items():
        (options.folder / name).write_text(json.dumps(value), encoding='utf-8')
    tables.write(options.folder / 'train.csv', ('text',), [(' '.join(history[:-1]),) for history in histories])
    tables.write(options.folder / 'test.csv', ('history', 'item'), [(' '.join(h[:-1]), h[-1]) for h in histories])
    print(f'written    {options.folder}: {len(histories):,} histories of {len(items):,} items')
    return 0


if __name__ == '__main__':
    command_line.run(main)
