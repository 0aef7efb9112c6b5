"""Comparison of two runs."""

import json
from math import comb

import numpy as np
import pytest

from palm_jax.cli.compare import compare, main
from palm_jax.errors import UserError


def write(folder, predicted, labels=None):
    folder.mkdir()
    labels = labels or ['x'] * len(predicted)
    rows = [
        {'text': f't{i}', 'label': y, 'predicted': p} for i, (p, y) in enumerate(zip(predicted, labels, strict=True))
    ]
    (folder / 'predictions.jsonl').write_text('\n'.join(map(json.dumps, rows)) + '\n')
    return str(folder)


def test_mcnemar_by_hand():
    first = np.array([1.0] * 12 + [0.0] * 3 + [1.0] * 50)
    second = np.array([0.0] * 12 + [1.0] * 3 + [1.0] * 50)
    result = compare(first, second)
    assert (result.only_first, result.only_second) == (12, 3)
    np.testing.assert_allclose(result.p_value, 2 * sum(comb(15, k) for k in range(4)) / 2**15)
    # The interval of a mean of ±1 and 0: about 1.96 standard errors to either side.
    error = np.std(second - first) / np.sqrt(len(first))
    np.testing.assert_allclose([result.lower, result.upper], -9 / 65 + 1.96 * error * np.array([-1, 1]), atol=0.02)


def test_one_example_shows_no_difference(tmp_path, capsys):
    first, second = write(tmp_path / 'first', ['y']), write(tmp_path / 'second', ['x'])
    main([first, second])
    shown = capsys.readouterr().out
    assert 'No significant difference' in shown and 'second is better by 1, on a single example' in shown
    assert 'interval' not in shown
    written = json.dumps({'text': 'a\u2028b', 'label': 'x', 'predicted': 'x'}, ensure_ascii=False)
    (tmp_path / 'first' / 'predictions.jsonl').write_text(written + '\n')
    main([first, first])  # a line separator of Unicode does not end a line


def test_it_says_plainly_whether_they_differ(tmp_path, capsys):
    first = write(tmp_path / 'first', ['x'] * 60 + ['y'] * 40)
    better = write(tmp_path / 'better', ['x'] * 90 + ['y'] * 10)
    alike = write(tmp_path / 'alike', ['x'] * 59 + ['y'] * 39 + ['x'] * 2)
    main([first, better])
    shown = capsys.readouterr().out
    assert f'They differ: {better} is better.' in shown and '0.6000' in shown and '0.9000' in shown
    main([better, first])
    assert f'They differ: {better} is better.' in capsys.readouterr().out
    main([first, alike])
    assert 'No significant difference' in capsys.readouterr().out
    main([first, first])
    shown = capsys.readouterr().out
    assert "McNemar's p = 1" in shown and 'both score the same on every example' in shown and '0.0000' not in shown
    swapped = write(tmp_path / 'swapped', ['y'] * 40 + ['x'] * 60)
    main([first, swapped])
    assert 'both score the same on average' in capsys.readouterr().out


def test_the_better_run_is_named_with_its_gain(tmp_path, capsys):
    few, many = (write(tmp_path / str(right), ['x'] * right + ['y'] * (10 - right)) for right in (4, 9))
    main([few, many])
    assert 'the second is better by 0.5000 (95% interval +' in capsys.readouterr().out
    main([many, few])
    assert 'the first is better by 0.5000 (95% interval +' in capsys.readouterr().out
    one = write(tmp_path / 'one', ['x'])
    main([one, one])
    assert capsys.readouterr().out.startswith('1 example\n')
    labels = [float(i) for i in range(4)]
    main([write(tmp_path / name, [y + error for y in labels], labels) for name, error in (('a', 1e-6), ('b', 3e-6))])
    assert 'the first is better by 0.0000020' in capsys.readouterr().out


def test_numbers_are_compared_by_their_errors(tmp_path, capsys):
    labels = [float(i) for i in range(50)]
    near = write(tmp_path / 'near', [y + 0.1 for y in labels], labels)
    far = write(tmp_path / 'far', [y + 0.5 + 0.01 * i for i, y in enumerate(labels)], labels)
    main([far, near])
    shown = capsys.readouterr().out
    assert 'mean absolute error 0.1000' in shown and f'They differ: {near} is better.' in shown


def test_written_texts_are_compared_by_their_scores(tmp_path, capsys):
    rng, runs = np.random.default_rng(0), []
    for name, mean in (('first', 20), ('second', 30)):
        path = tmp_path / name
        path.mkdir()
        rows = [{'text': f't{i}', 'label': ['a'], 'predicted': 'b', 'score': mean + rng.normal()} for i in range(40)]
        (path / 'predictions.jsonl').write_text('\n'.join(map(json.dumps, rows)) + '\n')
        runs.append(str(path))
    main(runs)
    shown = capsys.readouterr().out
    assert 'mean score per text' in shown and f'They differ: {runs[1]} is better.' in shown and 'McNemar' not in shown


def test_other_examples_are_refused(tmp_path):
    first, longer = write(tmp_path / 'first', ['x'] * 3), write(tmp_path / 'longer', ['x'] * 4)
    with pytest.raises(UserError, match='number 4 is nothing in'):
        main([first, longer])
    with pytest.raises(UserError, match='does not exist'):
        main([first, str(tmp_path / 'none')])
