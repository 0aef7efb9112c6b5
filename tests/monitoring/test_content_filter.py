"""Rules about texts: what they apply to, and what they are refused for."""

import json

import pytest

from palm_jax.errors import UserError
from palm_jax.monitoring import audit_log, content_filter
from palm_jax.monitoring.audit_log import AuditLog
from palm_jax.monitoring.content_filter import ContentFilter


def loaded(tmp_path, *rules):
    path = tmp_path / 'rules.json'
    path.write_text(json.dumps(rules))
    return content_filter.load(path, lambda directory, label: lambda texts: [min(1, len(text) / 10) for text in texts])


@pytest.mark.parametrize(
    ('word', 'texts', 'others'),
    [
        ('idiot', ['You IDIOT!', 'idiot', 'an idiot.', 'ｉｄｉｏｔ'], ['idiotic', 'xidiot', 'idi ot']),
        ('shut up', ['Shut up, you', 'shut  up', 'shut\nup'], ['shut upward']),
        ("don't", ['Don’t!', "don't"], ['dont']),
        ('straße', ['STRASSE', 'Straße 7'], ['straßenbahn']),
        ('กา', ['มากาล'], ['มา']),
        ('바보', ['바보!'], ['바보같은']),
        ('c++', ['I like C++.', 'c++11'], ['c+']),
        ('笨蛋', ['你是笨蛋吗', '笨蛋'], ['笨', '蛋笨']),
        ('ärger', ['Ärger!'], ['verärgert']),
    ],
)
def test_words_are_whole_words_of_any_case(tmp_path, word, texts, others):
    (rule,) = loaded(tmp_path, {'name': 'r', 'words': [word]})
    assert list(rule.scorer(texts)) == [1.0] * len(texts) and list(rule.scorer(others)) == [0.0] * len(others)


def test_rules_refuse_or_record_and_are_logged(tmp_path):
    (tmp_path / 'words.txt').write_text('bad\n\nworse\n')
    rules = loaded(
        tmp_path,
        {'name': 'words', 'words': str(tmp_path / 'words.txt'), 'of': 'input'},
        {'name': 'long', 'model': 'runs/x', 'label': 'y', 'threshold': 0.8, 'action': 'record'},
        {'name': 'digits', 'pattern': '[0-9]{4}'},
    )
    with AuditLog(tmp_path / 'audit.jsonl') as log:
        found = ContentFilter(rules, log)
        texts = ['so bad 1234', 'good', 'a long text 5678']
        assert found.refused(texts, 'input', model='m') == ['words', None, 'digits']
        assert found.refused(['so bad', '9999'], 'output') == [None, 'digits']
    lines = list(audit_log.read(tmp_path / 'audit.jsonl'))
    assert [(line['action'], line['rule'], line['side']) for line in lines] == [
        ('refused', 'words', 'input'), ('recorded', 'long', 'input'), ('refused', 'digits', 'input'),
        ('refused', 'digits', 'output'),
    ]  # fmt: skip
    assert lines[1]['score'] == 1.0 and lines[0]['model'] == 'm' and len(lines[0]['version']) == 12
    (tmp_path / 'words.txt').write_text('bad\n')
    assert loaded(tmp_path, {'name': 'words', 'words': str(tmp_path / 'words.txt')})[0].version != rules[0].version
    assert found.reads('output') and not ContentFilter(rules[:1]).reads('output') and not ContentFilter().reads('input')


@pytest.mark.parametrize(
    ('rule', 'message'),
    [
        ({'name': 'r'}, 'needs a name, which is a text, and exactly one of words'),
        ({'words': ['a']}, 'needs a name'),
        ({'name': 'r', 'words': ['a'], 'pattern': 'b'}, 'exactly one of'),
        ({'name': 'r', 'word': ['a']}, "unknown key 'word'.*words"),
        ({'name': 'r', 'words': []}, 'must be a list of words'),
        ({'name': 'r', 'words': ['']}, 'must be a list of words'),
        ({'name': 'r', 'words': 'missing.txt'}, 'missing.txt cannot be read'),
        ({'name': 'r', 'pattern': '('}, 'not a regular expression'),
        ({'name': 'r', 'pattern': 3}, 'not a regular expression'),
        ({'name': 'r', 'words': ['a'], 'of': 'answers'}, "of is 'answers'; it must be one of input"),
        ({'name': 'r', 'words': ['a'], 'action': 'log'}, 'refuse, record'),
        ({'name': 'r', 'words': ['a'], 'threshold': 0}, 'threshold is 0'),
        ({'name': 'r', 'words': ['a'], 'threshold': '1'}, 'threshold is'),
        ({'name': 'r', 'words': ['a'], 'label': 'x'}, 'label belongs to a rule with a model'),
        ({'name': 'r', 'function': 'no_such_module:f'}, 'cannot be imported'),
        ({'name': 'r', 'function': 'math:pi'}, "The rule 'r' has failed: TypeError"),
        ({'name': 'r', 'function': 'builtins:len'}, "The rule 'r' gave the score 6"),
        ({'name': '', 'words': ['a']}, 'needs a name'),
        ({'name': 'r', 'words': 'idiot'}, 'write .*idiot'),
        ({'name': 'r', 'pattern': ''}, 'would match every text'),
    ],
)
def test_a_wrong_rule_is_named(tmp_path, rule, message):
    with pytest.raises(UserError, match=rf'rule 1.*{message}'):
        loaded(tmp_path, rule)


def test_a_function_scores_texts_and_names_are_unique(tmp_path):
    (rule,) = loaded(tmp_path, {'name': 'r', 'function': 'operator:truth'})
    assert list(rule.scorer(['a', ''])) == [1.0, 0.0]
    with pytest.raises(UserError, match="two rules are called 'r'"):
        loaded(tmp_path, *[{'name': 'r', 'words': ['a']}] * 2)
    (tmp_path / 'rules.json').write_text('{')
    with pytest.raises(UserError, match='is not JSON'):
        content_filter.load(tmp_path / 'rules.json', None)
