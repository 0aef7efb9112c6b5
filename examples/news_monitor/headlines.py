"""python -m examples.news_monitor.headlines FOLDER

Writes invented headlines of companies, so that the application runs without other data: train.csv and calibration.csv
(`text`, `labels`: a sentiment and a topic, separated by |) and stream.csv (`time`, `company`, `text`, `labels`), three
months in which some companies have bad weeks.
"""

from __future__ import annotations

import datetime
import random
from collections.abc import Sequence
from pathlib import Path

from examples import tables
from palm_jax.cli import command_line
from palm_jax.cli.parser import Parser, positive

COMPANIES = ('Arlow', 'Benfield', 'Corvus Steel', 'Dunmore', 'Eastgate', 'Fenwick')
_FIRST_DAY = datetime.datetime(2026, 1, 5, tzinfo=datetime.UTC)
_DAYS, _BAD_DAYS = 90, 4
_TEMPLATES = {
    ('positive', 'earnings'): [
        '{c} beats profit forecast',
        '{c} raises its outlook',
        'record quarter at {c}',
        '{c} lifts dividend',
    ],
    ('negative', 'earnings'): [
        '{c} misses profit forecast',
        '{c} cuts its outlook',
        'loss widens at {c}',
        '{c} halts dividend',
    ],
    ('neutral', 'earnings'): ['{c} to report results on {d}', '{c} confirms its outlook', 'quarter of {c} as expected'],
    ('positive', 'legal'): ['court clears {c}', '{c} wins patent case', 'charges against {c} dropped on {d}'],
    ('negative', 'legal'): ['{c} sued over {x}', 'regulator fines {c} for {x}', 'prosecutors search {c} on {d}'],
    ('neutral', 'legal'): ['{c} case adjourned to {d}', 'hearing of {c} on {x} begins'],
    ('positive', 'operations'): [
        '{c} opens plant in {p}',
        '{c} wins order from {p}',
        'production at {c} resumes',
    ],
    ('negative', 'operations'): [
        'fire stops {c} plant in {p}',
        '{c} recalls products over {x}',
        'strike hits {c} in {p}',
    ],
    ('neutral', 'operations'): ['{c} moves office to {p}', '{c} names new head of plant in {p}'],
}
_ENDINGS = ('', ', says report', ' - agencies', ', shares move', ' on {d}')
_WORDS = {
    'd': ['Monday', 'Tuesday', 'Friday'],
    'x': ['waste', 'pricing', 'safety', 'data'],
    'p': ['Lyon', 'Graz', 'Porto'],
}


def headline(kind: tuple[str, str], company: str, rng: random.Random) -> str:
    """Return a headline of a sentiment and a topic."""
    words = {name: rng.choice(choices) for name, choices in _WORDS.items()}
    return (rng.choice(_TEMPLATES[kind]) + rng.choice(_ENDINGS)).format(c=company, **words)


def stream(seed: int) -> list[tuple[str, str, str, str]]:
    """Return (time, company, text, labels) in order of time; in a bad week most headlines of a company are negative."""
    rng, kinds = random.Random(seed), list(_TEMPLATES)
    bad = {(rng.choice(COMPANIES), day + i) for day in rng.sample(range(_DAYS), 12) for i in range(_BAD_DAYS)}
    rows = []
    for company in COMPANIES:
        for day in range(_DAYS):
            is_bad = (company, day) in bad
            for _ in range(rng.randint(1, 3) if is_bad else rng.randint(0, 2)):
                wanted = [k for k in kinds if k[0] == 'negative'] if is_bad and rng.random() < 0.9 else kinds
                kind = rng.choice(wanted)
                time = _FIRST_DAY + datetime.timedelta(days=day, minutes=rng.randrange(8 * 60, 18 * 60))
                rows.append((time.isoformat(timespec='minutes'), company, headline(kind, company, rng), '|'.join(kind)))
    return sorted(rows)


def main(arguments: Sequence[str]) -> int:
    """Write the files."""
    parser = Parser(
        prog='python -m examples.news_monitor.headlines',
        description=__doc__,
        example='python -m examples.news_monitor.headlines data/news',
    )
    parser.add_argument('folder', type=Path, metavar='FOLDER', help='folder to write to')
    parser.add_argument('--count', type=positive, default=1200, help='number of headlines to train on')
    options = parser.parse_args(arguments)
    options.folder.mkdir(parents=True, exist_ok=True)
    rng, kinds = random.Random(0), list(_TEMPLATES)
    rows = []
    for _ in range(options.count):
        kind = rng.choice(kinds)
        rows.append((headline(kind, rng.choice(COMPANIES), rng), '|'.join(kind)))
    rows = list(dict.fromkeys(rows))
    cut = len(rows) * 4 // 5
    events = stream(1)
    tables.write(options.folder / 'train.csv', ('text', 'labels'), rows[:cut])
    tables.write(options.folder / 'calibration.csv', ('text', 'labels'), rows[cut:])
    tables.write(options.folder / 'stream.csv', ('time', 'company', 'text', 'labels'), events)
    print(f'written    {options.folder}: {cut:,} and {len(rows) - cut:,} headlines, a stream of {len(events):,}')
    return 0


if __name__ == '__main__':
    command_line.run(main)
