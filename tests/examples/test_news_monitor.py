"""examples/news_monitor: the commands of its README on a micro model, and its alerts."""

import datetime
import json
import re
import shlex

import pytest

from examples.news_monitor import headlines, monitor
from examples.news_monitor.monitor import Headline, Rule
from palm_jax.errors import UserError
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

    refused("no label 'negativ'. Did you mean negative?", [RULE | {'labels': ['negativ']}])


RULE = {'name': 'r', 'labels': ['negative'], 'count': 1, 'hours': 1}


@pytest.mark.parametrize('rules, message', [
    ([{'name': 'r', 'labels': ['negative']}], 'rule 1 lacks count, hours: {"name"'),
    ([RULE, RULE | {'hours': 1e14}], 'rule 2: hours is 100000000000000.0; it must be a number above 0 and at most'),
    ([RULE | {'hours': float('nan')}], 'rule 1: hours is nan'),
    ([RULE | {'hours': '1'}], "rule 1: hours is '1'"),
    ([RULE | {'count': 1e400}], 'rule 1: count is inf; it must be a whole number of at least 1'),
    ([RULE | {'count': 2.5}], 'rule 1: count is 2.5; it must be a whole number'),
    ([RULE | {'count': 0}], 'rule 1: count is 0'),
    ([RULE | {'count': True}], 'rule 1: count is True'),
    ([RULE | {'window': 3}], "rule 1 has an unknown key 'window'. Keys: name, labels, count, hours"),
    ([RULE | {'hour': 3}], "unknown key 'hour'. Did you mean hours?"),
    ([RULE, RULE | {'count': 2}], "two rules are called 'r'"),
    ([RULE | {'name': 3}], 'rule 1: name is 3; it must be a text'),
    ([RULE | {'labels': []}], r'rule 1: labels is []; it must be a list of labels of the model: negative, legal'),
    ([RULE | {'labels': 'negative'}], "rule 1: labels is 'negative'; it must be a list"),
    ([], 'must hold a list of rules such as {"name"'),
    (RULE, 'must hold a list of rules'),
])  # fmt: skip
def test_a_wrong_rule_is_named(tmp_path, rules, message):
    path = tmp_path / 'rules.json'
    path.write_text(json.dumps(rules))
    with pytest.raises(UserError, match=re.escape(message)):
        monitor._rules(path, ['negative', 'legal'])
    path.write_text(json.dumps([RULE, RULE | {'name': 's', 'hours': 0.5}]))
    assert [rule.hours for rule in monitor._rules(path, ['negative', 'legal'])] == [1.0, 0.5]


@pytest.mark.parametrize('row, message', [
    ('2026-01-31T09:30,A,', "stream.csv, line 3: the column 'text' is empty."),
    ('2026-01-31T09:30, ,b', "stream.csv, line 3: the column 'company' is empty."),
    ('tomorrow,A,b', "stream.csv, line 3: 'tomorrow' is not a time"),
])  # fmt: skip
def test_a_wrong_headline_is_located(tmp_path, row, message):
    path = tmp_path / 'stream.csv'
    path.write_text(f'time,company,text\n2026-01-30T09:30,A,a\n{row}\n')
    with pytest.raises(UserError, match=re.escape(message)):
        monitor._stream(str(path))
    path.write_text('time,text\n2026-01-30T09:30,a\n')
    with pytest.raises(UserError, match=r"no column 'company'\. Columns: time, text\. Rename yours\.$"):
        monitor._stream(str(path))
