"""python -m examples.customer_service.questions FOLDER

Writes invented questions to a bank, so that the application runs without other data: train.csv, calibration.csv and
test.csv (text, label), unknown.csv (text; questions that none of the intents covers) and answers.csv (intent, answer).
No sentence of one file is in another. german.csv has questions of the same intents in another language, as customers of
a new branch may ask them.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence
from pathlib import Path

from examples import tables
from palm_jax.cli import command_line
from palm_jax.cli.parser import Parser

_OPENINGS = ('', 'Hello, ', 'Please help: ', 'Quick question: ', 'Good morning, ', 'Hi there. ')
_INTENTS = {
    'card_lost': [
        'I lost my {card}.',
        'my {card} was stolen',
        'I cannot find my {card} anywhere',
        'block my {card} now',
    ],
    'opening_hours': [
        'when does the {place} open?',
        'is the {place} open on {day}?',
        'until when is the {place} open?',
    ],
    'refund': ['I want my money back for {thing}', 'how do I return {thing}?', 'the refund for {thing} has not come'],
    'balance': ['how much money is in my {account}?', 'show the balance of my {account}', 'is my {account} overdrawn?'],
    'address': ['I moved to {city}', 'change my address to {city}', 'send my letters to {city} from {day} on'],
}
_GERMAN_OPENINGS = ('', 'Hallo, ', 'Guten Tag, ', 'Bitte: ', 'Eine Frage: ', 'Hilfe! ')
_GERMAN = {
    'card_lost': ['Meine Karte fehlt', 'Ich habe meine Karte verloren'],
    'opening_hours': ['Wann macht die Filiale auf?', 'Hat die Filiale am Samstag auf?'],
    'refund': ['Ich will mein Geld für die Schuhe zurück', 'Ich will mein Geld für das Ticket zurück'],
    'balance': ['Wie viel habe ich auf meinem Konto?', 'Zeig mir mein Konto'],
    'address': ['Ich bin nach Graz umgezogen', 'Ich bin nach Wien umgezogen'],
}
_UNKNOWN = ['what is the weather in {city}?', 'recommend a film for {day}', 'who invented {thing}?', 'sing of {city}']
_WORDS = {
    'card': ['credit card', 'debit card', 'card', 'bank card'],
    'place': ['branch', 'office', 'counter', 'branch in town'],
    'day': ['Monday', 'Sunday', 'Friday', 'Christmas'],
    'thing': ['the shoes', 'a lamp', 'the ticket', 'my phone'],
    'account': ['account', 'savings account', 'current account', 'deposit'],
    'city': ['Lyon', 'Porto', 'Graz', 'Oslo'],
}
_ANSWERS = {
    'card_lost': 'Your card is blocked at once on 555-0100, at any hour. A new one comes within five days.',
    'opening_hours': 'Branches are open on weekdays from 9 to 17, and on Saturdays from 10 to 13.',
    'refund': 'Refunds take up to ten days. You see their state under Payments.',
    'balance': 'Your balance is on the first page of the app and at every cash machine.',
}  # there is none for `address`: it is written by a model, or a person answers


def sentences(templates: Sequence[str]) -> list[str]:
    """Return all sentences of templates, with every opening."""
    filled = []
    for template in templates:
        names = [name for name in _WORDS if f'{{{name}}}' in template]
        for words in itertools.product(*(_WORDS[name] for name in names)):
            filled.append(template.format(**dict(zip(names, words, strict=True))))
    return [opening + sentence for opening in _OPENINGS for sentence in filled]


def main(arguments: Sequence[str]) -> int:
    """Write the files."""
    parser = Parser(
        prog='python -m examples.customer_service.questions',
        description=__doc__,
        example='python -m examples.customer_service.questions data/desk',
    )
    parser.add_argument('folder', type=Path, metavar='FOLDER', help='folder to write to')
    folder = parser.parse_args(arguments).folder
    folder.mkdir(parents=True, exist_ok=True)
    rows = [(text, intent) for intent, templates in _INTENTS.items() for text in sentences(templates)]
    random.Random(0).shuffle(rows)
    cuts = len(rows) * 6 // 10, len(rows) * 8 // 10
    parts = {'train': rows[: cuts[0]], 'calibration': rows[cuts[0] : cuts[1]], 'test': rows[cuts[1] :]}
    for name, part in parts.items():
        tables.write(folder / f'{name}.csv', ('text', 'label'), part)
    german = [
        (opening + text, intent) for intent, texts in _GERMAN.items() for text in texts for opening in _GERMAN_OPENINGS
    ]
    random.Random(0).shuffle(german)
    tables.write(folder / 'german.csv', ('text', 'label'), german)
    tables.write(folder / 'unknown.csv', ('text',), [(text,) for text in sentences(_UNKNOWN)])
    tables.write(folder / 'answers.csv', ('intent', 'answer'), list(_ANSWERS.items()))
    print(f'written    {folder}: {", ".join(f"{len(part):,} {name}" for name, part in parts.items())}')
    return 0


if __name__ == '__main__':
    command_line.run(main)
