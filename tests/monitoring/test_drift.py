"""Tests of drift against their definitions, and on a model."""

import json

import numpy as np
import pytest
from scipy import stats

from palm_jax.cli import drift as program
from palm_jax.errors import UserError
from palm_jax.monitoring import drift, drift_report
from tests.support.kinds import every_kind

WORDS = ['card', 'bank', 'pay', 'lost', 'money', 'account', 'transfer', 'fee', 'limit', 'pin']


def texts(seed, words=WORDS, count=80):
    rng = np.random.default_rng(seed)
    return [' '.join(rng.choice(words, 5)) for _ in range(count)]


def test_the_stability_index_is_its_formula():
    reference, new = ['a'] * 60 + ['b'] * 40, ['a'] * 20 + ['b'] * 79 + ['c']
    p = np.array([60.5, 40.5, 0.5]) / 101.5
    q = np.array([20.5, 79.5, 1.5]) / 101.5
    found = drift.of_categories('labels', reference, new)
    value = ((q - p) * np.log(q / p)).sum()
    assert found.value == pytest.approx(value) and found.level == 'much'
    assert found.p_value == pytest.approx(stats.chi2.sf(value * 50, 2)) and found.reference.startswith('a 60.0%')
    same = drift.of_categories('labels', reference, reference)
    assert same.value == 0 and same.p_value == 1 and same.level == 'none'


def test_bins_have_equally_many_reference_values():
    rng = np.random.default_rng(0)
    reference, new = rng.normal(size=1000), rng.normal(1.0, size=500)
    edges = np.quantile(reference, np.arange(1, 10) / 10)
    q = (np.histogram(new, [-np.inf, *edges, np.inf])[0] + 0.5) / 505
    p = (np.histogram(reference, [-np.inf, *edges, np.inf])[0] + 0.5) / 1005
    found = drift.of_numbers('x', reference, new)
    assert found.value == pytest.approx(((q - p) * np.log(q / p)).sum()) and found.level == 'much'
    assert drift.of_numbers('constant', np.ones(50), np.ones(30)).level == 'none'


def test_no_drift_is_seldom_found_where_there_is_none():
    rng = np.random.default_rng(0)
    found = [drift.of_numbers('x', *rng.normal(size=(2, 60))).level for _ in range(200)]
    assert found.count('none') > 190
    assert (
        np.mean([drift.of_numbers('x', *rng.normal(size=(2, 60))).value > 0.1 for _ in range(200)]) > 0.5
    )  # by chance


def test_outputs_are_corrected_for_their_number():
    rng = np.random.default_rng(0)
    reference, new = rng.uniform(size=(300, 4)), rng.uniform(size=(200, 4))
    new[:, 2] **= 3
    found = drift.of_outputs(list('abcd'), reference, new)
    single = stats.ks_2samp(reference[:, 2], new[:, 2])
    assert found.name.endswith('c') and found.value == pytest.approx(single.statistic) and found.level == 'much'
    assert found.p_value == pytest.approx(4 * single.pvalue)


def test_shares_of_labels_are_recovered_from_confused_predictions():
    rng = np.random.default_rng(0)
    confusion = np.array([[0.8, 0.3, 0.0], [0.2, 0.6, 0.1], [0.0, 0.1, 0.9]])  # P(predicted | label), by column
    draw = lambda labels: np.array([rng.choice(3, p=confusion[:, y]) for y in labels])  # noqa: E731
    before, after = rng.choice(3, 20000, p=[0.6, 0.3, 0.1]), rng.choice(3, 20000, p=[0.1, 0.3, 0.6])
    found = drift.label_shares(list('abc'), before, draw(before), draw(after))
    np.testing.assert_allclose(list(found.values()), [0.1, 0.3, 0.6], atol=0.03)
    assert drift.label_shares(['a', 'b'], np.array([0, 1]), np.array([0, 0]), np.array([0])) is None


def test_a_domain_is_told_from_another_but_not_from_itself():
    other = drift.of_domain(texts(0), texts(1, ['film', 'actor', 'scene', 'plot', 'song', 'drama', 'comedy']))
    assert other.value > 0.95 and other.level == 'much'
    same = drift.of_domain(texts(0), texts(1))
    assert same.value < 0.65 and same.level == 'none'
    assert drift.of_domain(texts(0), texts(0)) is None  # every text is in both


def test_a_report_for_every_kind_of_task(micro):
    kinds = every_kind(micro, 'classes', 'pairs', 'tags', 'text')
    same, other = texts(2), ['film scene ' * 8] * 20 + texts(3, ['drama', 'plot'], 40)
    for name, model in kinds.items():
        inputs = [[(t, t) if name == 'pairs' else t for t in x] for x in (texts(0), same, other)]
        labels = list(np.arange(80) % 3) if name == 'classes' else None
        quiet = drift_report.compare(model, inputs[0], inputs[1], labels, 32)
        loud = drift_report.compare(model, inputs[0], inputs[2], labels, 32)
        assert ('shares of labels: ' in quiet.text()) == (name == 'classes' and not quiet.label_shares)
        assert quiet.verdict == 'none', [f for f in quiet.findings if f.level != 'none']
        assert loud.verdict == 'much' and 'Much drift: ' in loud.text()
        assert json.loads(json.dumps(loud.to_json()))['verdict'] == 'much' and '<table>' in loud.page('<x>')
    unlabelled = drift_report.compare(kinds['classes'], texts(0), same, None, 32)
    assert 'note: shares of labels: the reference has no labels' in unlabelled.text()
    with pytest.raises(UserError, match='3 texts in the new inputs: drift is tested on at least 20'):
        drift_report.compare(model, texts(0), ['a'] * 3, None, 32)
    names = ('--reference=old.csv', '--requests=requests.db')
    with pytest.raises(UserError, match=r'3 texts in --reference=old\.csv: drift'):
        drift_report.compare(model, ['a'] * 3, texts(0), None, 32, names)


def test_texts_do_not_drift_from_themselves(micro):
    """Every word of this reference is in it once, so that half of it lacks those of the other half."""
    model = every_kind(micro, 'text')['text']
    reference = [f'word{2 * i} word{2 * i + 1}' for i in range(40)]
    report = drift_report.compare(model, reference, reference, None, 32)
    assert report.verdict == 'none', report.text()
    (words,) = (finding for finding in report.findings if finding.name.startswith('words'))
    assert (words.reference, words.new) == ('100.00%', '100.00%')
    repeated = drift_report.compare(model, reference, reference[::2], None, 32)
    assert all(finding.level == 'none' for finding in repeated.findings if finding.name.startswith('words'))


def test_a_sorted_table_is_read_from_its_beginning_to_its_end(micro, tmp_path):
    model, table = every_kind(micro, 'text')['text'], tmp_path / 'sorted.txt'
    table.write_text(''.join(f'text {i:03}\n' for i in range(100)))
    assert program._read(model, str(table), 4) == ['text 000', 'text 033', 'text 066', 'text 099']
    assert len(program._read(model, str(table), 100)) == len(program._read(model, str(table), 1000)) == 100


def test_the_message_of_few_texts_names_the_flags(monkeypatch):
    options = ['--gin_file=runs/x/config.gin', '--requests=r.db', '--days=2']
    reference, new = program._names(program._parser().parse_args(options))
    assert 'the held-out part of the run' in reference and '--reference=FILE' in reference
    assert new == '--requests=r.db --days=2.0'
    given = program._parser().parse_args([options[0], '--input=a.txt', '--reference=b.txt'])
    assert program._names(given) == ('--reference=b.txt', '--input=a.txt')
