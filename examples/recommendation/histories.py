"""python -m examples.recommendation.histories FOLDER [--movielens=ml-100k]

Writes what a recommender learns from: train.csv (`text`: the items of a user in order of time, without the last one),
test.csv (`history`, `item`: the last one) and a vocabulary in which every item is a token (tokenizer.json).

Without --movielens the histories are invented: an item belongs to one of several kinds; a user takes every item of a
kind, or every second or fourth, and sometimes changes the kind. What comes next therefore depends on more than the last
item. With --movielens they are those of MovieLens-100k (grouplens.org/datasets/movielens/100k): of its folder, or of a
file like its u.data, which has the columns user, item, rating and time, separated by tabs. Titles are taken from u.item
beside it, if it is there, and written to items.csv (`item`, `title`).
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
        content = _read(path).decode()
    except UnicodeDecodeError as error:
        raise UserError(
            f'--movielens={path} is not a file of ratings: byte {error.start + 1:,} is not UTF-8. Name u.data, whose '
            'lines are user, item, rating and time, separated by tabs.'
        ) from None
    for number, line in enumerate(content.splitlines(), 1):
        try:
            user, item, _, time = line.split('\t')
            rows[user].append((int(time), _name(item)))
        except ValueError:
            raise UserError(
                f'{path}, line {number}: expected user, item, rating and time, separated by tabs.'
            ) from None
    return [[item for _, item in sorted(row)] for row in rows.values()]


def titles(path: Path) -> dict[str, str]:
    """Return the titles of a file like MovieLens-100k's u.item by item: item|title|..., in Latin-1.

    Raises:
      UserError: the file cannot be read, or a line has other columns.
    """
    found = {}
    for number, line in enumerate(_read(path).decode('latin-1').split('\n'), 1):
        item, *fields = line.strip('\r').split('|')
        if item and not fields:
            raise UserError(f'{path}, line {number}: expected item and title, separated by |.')
        if item:
            found[_name(item)] = fields[0]
    return found


def _name(item: str) -> str:
    """Return the token of an item.

    Raises:
      ValueError: it has blanks, which separate items, or no characters.
    """
    if item.split() != [item]:
        raise ValueError(item)
    return f'item{item}'


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f'--movielens: {path} cannot be read: {error.strerror or error}.') from None


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
    parser.add_argument(
        '--movielens', type=Path, help='folder of MovieLens-100k, or file of ratings; default: invented histories'
    )
    parser.add_argument('--users', type=positive, help='number of invented histories; default: 2000')
    options = parser.parse_args(arguments)
    if options.users and options.movielens:
        raise UserError('--users has no effect with --movielens, whose users are those of the file. Leave one out.')
    ratings = options.movielens
    if ratings and ratings.is_dir():
        ratings = ratings / 'u.data'
    found = movielens(ratings) if ratings else invented(options.users or 2000)
    names = titles(ratings.with_name('u.item')) if ratings and ratings.with_name('u.item').is_file() else {}
    histories = [items[-_MOST:] for items in found if len(items) >= _FEWEST]
    if not histories:
        raise UserError(
            f'--movielens={ratings} has {counted(len(found), "user")}, none of them with {_FEWEST} items or '
            'more, so that there is no history to learn from.'
        )
    options.folder.mkdir(parents=True, exist_ok=True)
    items = sorted({item for history in found for item in history})  # also those that only cut histories have
    content = {'tokenizer.json': tokenizer(items), 'tokenizer_config.json': {'bos_token': '<s>', 'eos_token': '</s>'}}
    for name, value in content.items():
        (options.folder / name).write_text(json.dumps(value), encoding='utf-8')
    tables.write(options.folder / 'train.csv', ('text',), [(' '.join(history[:-1]),) for history in histories])
    tables.write(options.folder / 'test.csv', ('history', 'item'), [(' '.join(h[:-1]), h[-1]) for h in histories])
    if names:
        tables.write(options.folder / 'items.csv', ('item', 'title'), [(i, names[i]) for i in items if names.get(i)])
    print(f'written    {options.folder}: {len(histories):,} histories of {len(items):,} items')
    print(f'train with --gin.VOCABULARY_SIZE={len(items) + len(SPECIAL)}')
    return 0


if __name__ == '__main__':
    command_line.run(main)
