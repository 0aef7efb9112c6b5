"""examples/recommendation: the commands of its README, its measures against scikit-learn, and its histories."""

import itertools
import json
import re
import shlex

import numpy as np
import pytest
from sklearn.metrics import ndcg_score, top_k_accuracy_score

from examples import tables
from examples.recommendation import histories, recommend
from palm_jax.errors import UserError
from tests.support.paths import ROOT
from tests.support.programs import run_here

README = (ROOT / 'examples/recommendation/README.md').read_text()


def test_measures_are_those_of_scikit_learn():
    rng = np.random.default_rng(0)
    scores, items = rng.normal(size=(50, 30)), rng.integers(0, 30, 50)
    found = recommend.measure(scores, items, k=5)
    assert found['HR@5'] == pytest.approx(top_k_accuracy_score(items, scores, k=5, labels=np.arange(30)))
    assert found['NDCG@5'] == pytest.approx(ndcg_score(np.eye(30)[items], scores, k=5))
    equal = recommend.measure(np.zeros((2, 4)), np.array([0, 3]), k=2)
    assert equal == {'HR@2': 0.5, 'NDCG@2': 0.5}  # of equal scores, the smaller id comes first


def test_baselines_count():
    found = [[1, 2, 3, 2, 3], [2, 3, 1]]
    assert recommend.popularity(found, 5).tolist() == [0, 2, 3, 3, 0]
    table = recommend.followers(found, 5)
    assert table[2].argmax() == 3 and np.floor(table)[2, 3] == 3 and np.floor(table)[3].tolist() == [0, 1, 1, 0, 0]
    assert np.argsort(-table[4], kind='stable').tolist() == [2, 3, 1, 0, 4]  # nothing followed 4: by popularity


def test_co_occurrence_is_counted_in_pairs_of_items():
    found = [[1, 2, 3, 2, 3], [2, 3, 1], [4]]
    table = recommend.co_occurrence(found, 6)
    expected = [[sum({i, j} <= set(h) for h in found) if i != j else 0 for j in range(6)] for i in range(6)]
    assert table.tolist() == expected
    scores = recommend.baselines(found, 6)
    assert scores['co-occurrence'].tolist() == [
        [sum(expected[i][j] for i in set(history)) for j in range(6)] for history in found
    ]
    assert list(scores) == ['what followed the last item', 'co-occurrence', 'popularity']


def movielens_100k(folder, users=30, items=40):
    """A folder in the format of MovieLens-100k: u.data with tabs, u.item with 24 fields in Latin-1."""
    rng = np.random.default_rng(0)
    folder.mkdir()
    rows = []
    for user in range(1, users + 1):
        first = rng.integers(items)
        for place in range(rng.integers(20, 30)):
            rows.append((user, (first + place) % items + 1, rng.integers(1, 6), 881250949 + 60 * place))
    rng.shuffle(rows)
    (folder / 'u.data').write_text(''.join('\t'.join(map(str, row)) + '\n' for row in rows))
    genres = '|'.join(['0'] * 19)
    films = [
        f'{i}|L\xe9on ({1900 + i})|01-Jan-1995||http://us.imdb.com/M/title-exact?{i}|{genres}'
        for i in range(1, items + 1)
    ]
    (folder / 'u.item').write_bytes('\n'.join([*films, '']).encode('latin-1'))
    return folder


def test_movielens_100k_is_read_as_it_is(tmp_path, capsys):
    source, folder = movielens_100k(tmp_path / 'ml-100k'), tmp_path / 'data'
    assert histories.main([str(folder), f'--movielens={source}']) == 0
    shown = capsys.readouterr().out
    assert '30 histories of 40 items' in shown and 'train with --gin.VOCABULARY_SIZE=44' in shown
    rows = [row for _, row in tables.read(f'{folder}/test.csv', '--data', 'history', 'item')]
    numbers = [[int(item[4:]) for item in f'{history} {item}'.split()] for history, item in rows]
    assert all((b - a) % 40 == 1 for user in numbers for a, b in itertools.pairwise(user))  # in order of time
    titles = recommend._titles(folder / 'items.csv')
    assert len(titles) == 40 and titles['item7'] == 'L\xe9on (1907)'
    assert recommend._titles(tmp_path / 'none.csv') == {}
    again = tmp_path / 'again'
    assert histories.main([str(again), f'--movielens={source / "u.data"}']) == 0
    assert (again / 'train.csv').read_text() == (folder / 'train.csv').read_text()
    (source / 'u.item').write_text('7\n')
    with pytest.raises(UserError, match=r'u\.item, line 1: expected item and title, separated by \|'):
        histories.main([str(again), f'--movielens={source}'])
    (source / 'u.data').unlink()
    with pytest.raises(UserError, match=r'ml-100k/u\.data cannot be read: No such file'):
        histories.main([str(again), f'--movielens={source}'])
    (source / 'u.data').write_text('1\t1 2\t3\t4\n')
    with pytest.raises(UserError, match=r'u\.data, line 1: expected user, item'):
        histories.main([str(again), f'--movielens={source}'])


@pytest.mark.slow
def test_the_commands_for_movielens_run(tmp_path):
    block = re.search(r'## MovieLens-100k.*?```\n(.*?)```', README, re.DOTALL)[1]
    make, train, measure, ask = [shlex.split(line)[2:] for line in block.splitlines()]
    movielens_100k(tmp_path / 'ml-100k')
    for name in ('gin', 'examples'):
        (tmp_path / name).symlink_to(ROOT / name)
    for command in (make, [*train, '--gin.VOCABULARY_SIZE=44', '--gin.TRAIN_STEPS=5', '--gin.BATCH_SIZE=4']):
        result = run_here(*command, cwd=tmp_path)
        assert result.returncode == 0, result.stderr[-3000:]
    found = run_here(*measure, cwd=tmp_path).stdout
    assert [line.split('  ')[0] for line in found.splitlines()][1:] == [
        'what followed the last item', 'co-occurrence', 'popularity',
    ]  # fmt: skip
    shown = run_here(*[word.replace('item50 item181', 'item5 item8') for word in ask], cwd=tmp_path).stdout.splitlines()
    assert len(shown) == 3 and all('L\xe9on' in line for line in shown)
    assert not any(line.startswith(('item5 ', 'item8 ')) for line in shown)


def test_invented_histories_are_a_function_of_the_seed():
    first = histories.invented(20, seed=1)
    assert first == histories.invented(20, seed=1) != histories.invented(20, seed=2)
    assert all(8 <= len(items) <= 20 for items in first)


def test_ratings_become_histories_in_order_of_time(tmp_path):
    (tmp_path / 'u.data').write_text('1\t10\t5\t30\n2\t11\t3\t5\n1\t12\t4\t20\n')
    assert histories.movielens(tmp_path / 'u.data') == [['item12', 'item10'], ['item11']]
    (tmp_path / 'u.data').write_text('1\t10\t5\t30\n1,2\n')
    for path, message in ((tmp_path / 'u.data', 'line 2: expected user, item'), (tmp_path / 'none', 'cannot be read')):
        with pytest.raises(UserError, match=message):
            histories.movielens(path)


def test_what_holds_no_history_is_refused_before_anything_is_written(tmp_path):
    file, folder = tmp_path / 'u.data', tmp_path / 'shop'
    for content, message in (
        (b'1\t10\t5\t30\n\xe9\t11\t3\t5\n', r'--movielens=.*u\.data is not a file of ratings: byte 11 is not UTF-8'),
        (b'1\t10\t5\t30\n2\t11\t3\t5\n', r'--movielens=.*u\.data has 2 users, none of them with 3 items or more'),
        (b'', r'has 0 users'),
    ):
        file.write_bytes(content)
        with pytest.raises(UserError, match=message):
            histories.main([str(folder), f'--movielens={file}'])
    with pytest.raises(UserError, match='--users has no effect with --movielens'):
        histories.main([str(folder), f'--movielens={file}', '--users=3'])
    assert not folder.exists()


def test_the_commands_of_its_readme_run(tmp_path):
    block = re.search(r'```bash\n(.*?)```', README, re.DOTALL)[1]
    make, train, measure, ask = [shlex.split(line)[2:] for line in block.splitlines()]
    for name in ('gin', 'examples'):
        (tmp_path / name).symlink_to(ROOT / name)

    def start(module, *flags):
        result = run_here(module, *flags, cwd=tmp_path)
        assert result.returncode == 0, result.stderr[-3000:]
        return result.stdout

    start(*make)
    assert len(json.loads((tmp_path / 'data/shop/tokenizer.json').read_text())['model']['vocab']) == 124
    start(*train, '--gin.TRAIN_STEPS=20', '--gin.WRITERS=[]', '--gin.BATCH_SIZE=8', '--gin.EVAL_BATCHES=1')
    lines = dict(re.findall(r'^(.*?)  +HR@10 ([0-9.]+)', start(*measure), re.MULTILINE))
    assert float(lines['what followed the last item']) > 0.7 > 0.2 > float(lines['popularity'])
    assert float(lines['this model']) > float(lines['popularity'])
    assert len(start(*ask).splitlines()) == 3
    test = tmp_path / 'data/shop/test.csv'
    test.write_text('history,item\nitem0x3 item0x4,item0x5\nitem0x3,item9x9\n')
    wrong = run_here(*measure, cwd=tmp_path)
    assert wrong.returncode == 2 and "test.csv, line 3: The item 'item9x9' is unknown" in wrong.stderr
    for history, message in (('item0x3 item9x9', "item 'item9x9' is unknown"), (' ', 'at least one item')):
        wrong = run_here(*measure, f'--history={history}', cwd=tmp_path)
        assert wrong.returncode == 2 and message in wrong.stderr
