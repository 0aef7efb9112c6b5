"""A/B tests: counts of feedback, exact tests and intervals."""

import json
import math

import pytest

from palm_jax.errors import UserError
from palm_jax.monitoring import ab_test
from palm_jax.monitoring.request_log import Kept, RequestLog
from tests.support.programs import run_here


def kept(checkpoint, label=None, rating=None, answer='a'):
    return Kept(
        'id', 0, 0.0, 'm', checkpoint, '/v1/classify', 'text', {'label': answer, 'labels': [answer]}, label, rating
    )


def test_feedback_is_counted_by_checkpoint():
    rows = [kept('one', 'a', 'up'), kept('two', 'b', 'down'), kept('one'), kept('one', 'b')]
    rows.append(Kept('id', 0, 0.0, 'm', 'two', '/v1/classify', 'x', {'labels': ['a', 'b']}, ['b', 'a'], None))
    rows.append(Kept('id', 0, 0.0, 'm', 'two', '/v1/classify', 'x', {'label': None, 'number': 2.5}, 2.0, None))
    rows.append(Kept('id', 0, 0.0, 'm', 'three', '/v1/completions', 'x', {'text': 'an answer'}, 'an answer', 'up'))
    one, two, three = ab_test.arms(rows)
    assert three == ab_test.Arm('three', answers=1, confirmed=1, up=1)
    assert one == ab_test.Arm('one', answers=3, confirmed=1, corrected=1, up=1, down=0)
    assert two == ab_test.Arm('two', answers=3, confirmed=1, corrected=2, up=0, down=1)


def test_the_interval_is_newcombes_and_the_p_value_fishers():
    """56 of 70 and 48 of 80 is the example of Newcombe (1998), whose method 10 gives 0.0524 to 0.3339."""
    found = ab_test.difference('x', (48, 80), (56, 70))
    assert found.gain == pytest.approx(0.2)
    assert (found.lower, found.upper) == (pytest.approx(0.0524, abs=5e-5), pytest.approx(0.3339, abs=5e-5))

    def probability(k):  # of k of the first kind in the first row, all margins given
        return math.comb(80, k) * math.comb(70, 104 - k) / math.comb(150, 104)

    p_value = sum(p for k in range(34, 81) if (p := probability(k)) <= probability(48) * (1 + 1e-9))
    assert found.p_value == pytest.approx(2 * p_value) and found.is_significant


def test_the_verdict_says_which_is_better():
    first = ab_test.Arm('one', answers=200, confirmed=0, corrected=60, up=20, down=40)
    second = ab_test.Arm('two', answers=200, confirmed=0, corrected=20, up=30, down=30)
    found = ab_test.differences(first, second)
    assert [difference.name for difference in found] == ['corrected answers', 'thumbs up']
    assert ab_test.verdict(found) == 'The second model is better.'
    assert ab_test.verdict(ab_test.differences(second, first)) == 'The first model is better.'
    assert ab_test.verdict(ab_test.differences(first, first)) == 'No significant difference yet.'
    silent = ab_test.Arm('three', answers=5)
    assert ab_test.verdict(ab_test.differences(silent, silent)).startswith('Nothing to compare')


def test_arms_are_chosen_by_a_part_of_their_path():
    found = [ab_test.Arm(f'runs/{name}/checkpoints/9', answers=1) for name in ('a', 'b', 'bc')]
    assert ab_test.choose(found, ['runs/bc', 'runs/a/']) == (found[2], found[0])
    for wanted, message in (([], '3 answered'), (['runs/b', 'runs/a'], 'names 2'), (['runs/a'] * 2, 'one checkpoint')):
        with pytest.raises(UserError, match=message):
            ab_test.choose(found, wanted)


def test_the_program_reads_what_a_server_kept(tmp_path):
    log = RequestLog(tmp_path / 'kept.db')
    for number in range(40):
        checkpoint, answer = ('runs/a', 'no') if number % 2 else ('runs/b', 'yes')
        log.add(f'r{number}', 'm', checkpoint, '/v1/classify', ['text'], [{'label': answer, 'labels': [answer]}])
        log.add_feedback(f'r{number}', 0, label='yes')
    log.close()
    flags = [f'--requests={tmp_path / "kept.db"}', f'--output={tmp_path / "found.json"}']
    result = run_here('palm_jax.cli.ab_test', *flags, '--model=m', '--first=runs/a', '--second=runs/b')
    assert result.returncode == 0, result.stderr
    assert 'corrected answers: 100.0% (20 of 20) and 0.0% (0 of 20)' in result.stdout
    assert 'The second model is better.' in result.stdout
    assert json.loads((tmp_path / 'found.json').read_text())['second']['confirmed'] == 20
    wrong = run_here('palm_jax.cli.ab_test', *flags, '--model=n')
    assert wrong.returncode == 2 and 'Models that answered: m.' in wrong.stderr
    lonely = run_here('palm_jax.cli.ab_test', *flags, '--model=m', '--first=runs/a')
    assert lonely.returncode == 2 and 'Name both' in lonely.stderr
