"""python -m examples.news_monitor.monitor --model=runs/news --stream=data/news/stream.csv --rules=rules.json

Watches a stream of headlines: a classifier gives each its sentiment and its topic, rules raise alerts about companies,
and a page shows both. A rule is a JSON object:

    {"name": "trouble", "labels": ["negative"], "count": 3, "hours": 72}

It alerts when a company has `count` headlines with all of the labels within `hours`, and then again only once these
have passed. Where the stream has the right `labels`, the alerts are measured against those that they would raise:
precision is the share of alerts that are right, recall the share of right alerts that were raised; an alert counts as
right if the same rule alerts about the same company within its hours.
"""

from __future__ import annotations

import collections
import dataclasses
import datetime
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from examples import tables
from palm_jax import api
from palm_jax.bounds import Above, Below
from palm_jax.cli import command_line
from palm_jax.cli.parser import Parser, file_name, number
from palm_jax.errors import UserError, closest
from palm_jax.reports import pages, plots

_SHOWN = 200  # alerts and headlines on the page
_LONGEST = 100_000  # hours
_KEYS = ('name', 'labels', 'count', 'hours')
_EXAMPLE = '{"name": "trouble", "labels": ["negative"], "count": 3, "hours": 72}'


@dataclasses.dataclass(frozen=True)
class Headline:
    """A headline of the stream.

    Attributes:
      time: when it was published.
      company: company that it is about.
      text: its text.
      labels: its right labels; None if they are not known.
    """

    time: datetime.datetime
    company: str
    text: str
    labels: frozenset[str] | None = None


@dataclasses.dataclass(frozen=True)
class Rule:
    """When to alert.

    Attributes:
      name: name of the rule.
      labels: labels that a headline must have.
      count: number of such headlines of a company.
      hours: time within which they are counted.
    """

    name: str
    labels: frozenset[str]
    count: int
    hours: float

    @property
    def window(self) -> datetime.timedelta:
        """The time within which headlines are counted."""
        return datetime.timedelta(hours=self.hours)


@dataclasses.dataclass(frozen=True)
class Alert:
    """An alert about a company.

    Attributes:
      rule: rule that alerts.
      company: company that it is about.
      time: time of the headline that raised it.
      texts: headlines that were counted.
    """

    rule: Rule
    company: str
    time: datetime.datetime
    texts: tuple[str, ...]


class Monitor:
    """Counts labelled headlines, and alerts.

    Args:
      rules: rules.
    """

    def __init__(self, rules: Sequence[Rule]):
        self._rules = rules
        self._recent: dict[tuple[str, str], collections.deque[Headline]] = collections.defaultdict(collections.deque)
        self._quiet_until: dict[tuple[str, str], datetime.datetime] = {}

    def add(self, headline: Headline, labels: frozenset[str]) -> Iterator[Alert]:
        """Count a headline with its labels; yield the alerts that it raises. Headlines come in order of time."""
        for rule in self._rules:
            if not rule.labels <= labels:
                continue
            key = rule.name, headline.company
            recent = self._recent[key]
            recent.append(headline)
            while recent[0].time <= headline.time - rule.window:
                recent.popleft()
            if len(recent) >= rule.count and headline.time >= self._quiet_until.get(key, headline.time):
                self._quiet_until[key] = headline.time + rule.window
                yield Alert(rule, headline.company, headline.time, tuple(h.text for h in recent))


def alerts(rules: Sequence[Rule], stream: Sequence[Headline], labels: Sequence[frozenset[str]]) -> list[Alert]:
    """Return the alerts that a whole stream raises with these labels."""
    monitor = Monitor(rules)
    return [alert for pair in zip(stream, labels, strict=True) for alert in monitor.add(*pair)]


def precision_and_recall(raised: Sequence[Alert], right: Sequence[Alert]) -> tuple[float, float]:
    """Return the share of raised alerts that are right, and of right ones that were raised; 1 of none."""

    def share(some: Sequence[Alert], of: Sequence[Alert]) -> float:
        return sum(any(_is_same(one, other) for other in of) for one in some) / len(some) if some else 1.0

    return share(raised, right), share(right, raised)


def _is_same(one: Alert, other: Alert) -> bool:
    is_about_it = (one.rule.name, one.company) == (other.rule.name, other.company)
    return is_about_it and abs(one.time - other.time) <= one.rule.window


def main(arguments: Sequence[str]) -> int:
    """Label the headlines, print alerts as they are raised, and write the page."""
    parser = Parser(
        prog='python -m examples.news_monitor.monitor',
        description=__doc__,
        example='python -m examples.news_monitor.monitor --model=runs/news --stream=s.csv --rules=r.json --page=p.html',
    )
    parser.add_argument('--model', required=True, help='MODEL_DIR of a model with several labels a text')
    parser.add_argument('--stream', required=True, help='table with time, company, text and perhaps labels')
    parser.add_argument('--rules', required=True, type=file_name('.json'), help='.json file with a list of rules')
    parser.add_argument('--page', required=True, type=file_name('.html'), help='.html file to write')
    parser.add_argument('--threshold', type=number(Annotated[float, Above(0), Below(1)]), default=0.5,
                        help='probability from which on a headline has a label')  # fmt: skip
    options = parser.parse_args(arguments)
    if not options.page.parent.is_dir():
        raise UserError(f'--page: the folder {options.page.parent} does not exist.')
    model = api.load(options.model)
    reads_pairs = model.predictor.reads_pairs(model)
    if not model.data.labels or model.predictor.endpoint != '/v1/classify' or reads_pairs:
        what = 'to label pairs of texts' if reads_pairs else model.predictor.purpose
        raise UserError(f'--model={options.model} was trained {what}; the monitor needs labels of single texts.')
    rules, stream = _rules(options.rules, model.data.labels), _stream(options.stream)
    predicted = model.predict([headline.text for headline in stream])
    labels = [frozenset(name for name, p in of.items() if p >= options.threshold) for of in predicted]
    monitor, raised = Monitor(rules), []
    for headline, of_headline in zip(stream, labels, strict=True):
        for alert in monitor.add(headline, of_headline):
            print(f'{alert.time:%Y-%m-%d %H:%M}  {alert.rule.name}: {alert.company} ({" / ".join(alert.texts)})')
            raised.append(alert)
    measured = []
    if all(headline.labels is not None for headline in stream):
        right = alerts(rules, stream, [headline.labels or frozenset() for headline in stream])
        precision, recall = precision_and_recall(raised, right)
        exact = sum(h.labels == of for h, of in zip(stream, labels, strict=True)) / len(stream)
        measured = [('alerts', str(len(raised))), ('right alerts', str(len(right))),
                    ('precision', f'{precision:.3f}'), ('recall', f'{recall:.3f}'),
                    ('headlines with all labels right', f'{exact:.3f}')]  # fmt: skip
        for name, value in measured:
            print(f'{name:<32} {value}')
    _write_page(options.page, stream, labels, raised, measured)
    print(f'page       {options.page}')
    return 0


def _stream(path: str) -> list[Headline]:
    """Return the headlines of a table, in order of time.

    Raises:
      UserError: a column is missing or empty, or a time cannot be read.
    """
    found = []
    for row, (published, company, text) in tables.read(path, '--stream', 'time', 'company', 'text'):
        try:
            time = datetime.datetime.fromisoformat(published)
            time = time.replace(tzinfo=time.tzinfo or datetime.UTC).astimezone(datetime.UTC)
        except (ValueError, OverflowError):
            raise UserError(f'{row.location}: {published!r} is not a time such as 2026-01-31T09:30.') from None
        given = row.values.get('labels')
        names = str(given or '').split('|') if not isinstance(given, list) else map(str, given)
        labels = frozenset(filter(None, names)) if 'labels' in row.values else None
        found.append(Headline(time, company, text, labels))
    return sorted(found, key=lambda headline: headline.time)


def _rules(path: Path, known: Sequence[str]) -> list[Rule]:
    """Return the rules of a file.

    Raises:
      UserError: the file cannot be read, or names the rule that is wrong.
    """
    try:
        content = json.loads(path.read_text(encoding='utf-8'))
    except OSError as error:
        raise UserError(f'--rules={path} cannot be read: {error.strerror or error}.') from None
    except ValueError as error:
        raise UserError(f'--rules={path} is not JSON: {error}.') from None
    if not isinstance(content, list) or not all(isinstance(rule, dict) for rule in content) or not content:
        raise UserError(f'--rules={path} must hold a list of rules such as {_EXAMPLE}.')
    rules = [_rule(f'{path}, rule {number}', rule, known) for number, rule in enumerate(content, 1)]
    names = [rule.name for rule in rules]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise UserError(f'{path}: two rules are called {twice!r}.')
    return rules


def _rule(where: str, given: Mapping[str, Any], known: Sequence[str]) -> Rule:
    """Return a rule from its JSON."""
    for key in given:
        if key not in _KEYS:
            raise UserError(f'{where} has an unknown key {key!r}.{closest(key, _KEYS)} Keys: {", ".join(_KEYS)}.')
    if missing := [key for key in _KEYS if key not in given]:
        raise UserError(f'{where} lacks {", ".join(missing)}: {_EXAMPLE}')
    name, labels, count, hours = (given[key] for key in _KEYS)
    if not isinstance(name, str) or not name.strip():
        raise UserError(f'{where}: name is {name!r}; it must be a text.')
    if not isinstance(labels, list) or not labels or not all(isinstance(label, str) for label in labels):
        raise UserError(f'{where}: labels is {labels!r}; it must be a list of labels of the model: {", ".join(known)}.')
    if unknown := next((label for label in labels if label not in known), None):
        raise UserError(
            f'{where}: the model has no label {unknown!r}.{closest(unknown, known)} It has {", ".join(known)}.'
        )
    if isinstance(count, bool) or not isinstance(count, int) or count < 1:
        raise UserError(f'{where}: count is {count!r}; it must be a whole number of at least 1.')
    if isinstance(hours, bool) or not isinstance(hours, int | float) or not 0 < hours <= _LONGEST:
        raise UserError(f'{where}: hours is {hours!r}; it must be a number above 0 and at most {_LONGEST:,}.')
    return Rule(name, frozenset(labels), count, float(hours))


def _write_page(
    path: Path,
    stream: Sequence[Headline],
    labels: Sequence[frozenset[str]],
    raised: Sequence[Alert],
    measured: Sequence[tuple[str, str]],
) -> None:
    """Write the page, with a picture of the labels by week beside it."""
    weeks = [headline.time.strftime('%G-W%V') for headline in stream]
    names = sorted({name for of in labels for name in of})
    by_week = {
        name: [sum(name in of for of, w in zip(labels, weeks, strict=True) if w == week) for week in sorted(set(weeks))]
        for name in names
    }
    picture = path.with_suffix('.png')
    plots.plot_curves(range(1, len(set(weeks)) + 1), by_week, f'week, from {min(weeks)}', picture)
    shown: Any = {
        'Alerts': [
            ('time', 'rule', 'company', 'headlines'),
            *((f'{a.time:%Y-%m-%d %H:%M}', a.rule.name, a.company, ' / '.join(a.texts)) for a in raised[-_SHOWN:]),
        ],
        'Headlines': [
            ('time', 'company', 'headline', 'labels'),
            *(
                (f'{h.time:%Y-%m-%d %H:%M}', h.company, h.text, ', '.join(sorted(of)))
                for h, of in list(zip(stream, labels, strict=True))[-_SHOWN:]
            ),
        ],
    }
    if measured:
        shown = {'Against the right labels': [('what', 'value'), *measured], **shown}
    path.write_text(pages.html_page('News monitor', shown, [picture.name]), encoding='utf-8')


if __name__ == '__main__':
    command_line.run(main)
