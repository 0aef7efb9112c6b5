"""examples/news_monitor: the commands of its README on a micro model, and its alerts."""

import datetime
import json
import re
import shlex

import pytest

from examples.news_monitor import headlines, monitor
from examples.news_monitor.monitor import Headline, Rule
from tests.support.paths import ROOT
from tests.support.programs import run_here

README = (ROOT / 'examples/news_monitor/README.md').read_text()
TROUBLE = Rule('trouble', frozenset({'bad'}), count=2, hours=24)
BAD, GOOD = frozenset({'bad', 'legal'}), frozenset({'good'})


def at(*hours, company='A'):
    start = datetime.datetime(2026, 1, 1)
    return [Headline(start + datetime.timedelta(hours=hour), company, f'at {hour}') for hour in hours]


def raised(stream, labels, rule=TROUBLE):
    return [(alert.company, alert.texts) for alert in monitor.alerts([rule], stream, labels)]


def test_alerts_count_labels_of_a_company_within_hours():
    assert raised(at(0, 10), [BAD, BAD]) == [('A', ('at 0', 'at 10'))]
    assert raised(at(0, 24), [BAD, BAD]) == []  # the first has passed
    assert raised(at(0, 5, 10), [BAD, GOOD, BAD]) == [('A', ('at 0', 'at 10'))]
    assert raised([*at(0), *at(1, company='B')], [BAD, BAD]) == []
    assert raised(at(0, 1), [BAD, frozenset({'bad'})], Rule('both', BAD, 2, 24)) == []


def test_an_alert_is_quiet_for_its_hours():
    found = raised(at(0, 1, 2, 20, 25), [BAD] * 5)
    assert found == [('A', ('at 0', 'at 1')), ('A', ('at 2', 'at 20', 'at 25'))]  # 24 hours after the first alert


def test_precision_and_recall():
    right = monitor.alerts([TROUBLE], at(0, 1, 100, 101), [BAD] * 4)
    found = monitor.alerts([TROUBLE], at(3, 4, 200, 201, 300, 301), [BAD] * 6)
    assert (len(right), len(found)) == (2, 3)
    assert monitor.precision_and_recall(found, right) == (pytest.approx(1 / 3), 0.5)
    assert monitor.precision_and_recall([], right) == (1.0, 0.0)
    assert monitor.precision_and_recall(right, right) == (1.0, 1.0)


def test_the_stream_is_a_function_of_the_seed():
    assert headlines.stream(1) == headlines.stream(1) != headlines.stream(2)
    times = [row[0] for row in headlines.stream(1)]
    assert times == sorted(times)


def test_the_commands_of_its_readme_run(base, tmp_path):
    block = re.search(r'```bash\n(.*?)```', README, re.DOTALL)[1]
    make, train, watch = [shlex.split(line)[2:] for line in block.splitlines()]
    for name in ('gin', 'examples'):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / 'runs').mkdir()
    (tmp_path / 'runs' / 'tiny').symlink_to(base)

    def start(module, *flags):
        result = run_here(module, *flags, cwd=tmp_path)
        assert result.returncode == 0, result.stderr[-3000:]
        return result.stdout

    start(*make)
    start(*train, '--gin.TRAIN_STEPS=2', '--gin.WRITERS=[]')
    shown = start(*watch, '--threshold=0.3')
    assert 'precision' in shown and 'recall' in shown
    page = (tmp_path / 'runs/news/monitor.html').read_text()
    assert 'monitor.png' in page and '<h2>Headlines</h2>' in page and (tmp_path / 'runs/news/monitor.png').exists()

    def refused(message, rules):
        (tmp_path / 'rules.json').write_text(json.dumps(rules))
        result = run_here(*watch, '--rules=rules.json', cwd=tmp_path)
        assert result.returncode == 2 and message in result.stderr, result.stderr

    refused("no label 'negativ'", [{'name': 'r', 'labels': ['negativ'], 'count': 1, 'hours': 1}])
    refused('must hold a list of rules', [{'name': 'r', 'labels': ['negative']}])
    refused('hours above 0 and at most', [{'name': 'r', 'labels': ['negative'], 'count': 1, 'hours': 1e14}])
    refused('must hold a list of rules', [{'name': 'r', 'labels': ['negative'], 'count': 1e400, 'hours': 1}])
    refused('count must be at least 1', [{'name': 'r', 'labels': ['negative'], 'count': 0, 'hours': 1}])
