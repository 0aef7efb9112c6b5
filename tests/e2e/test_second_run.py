"""A second run in the same directory: continued, refused before anything is written, or told what has changed."""

import shutil

import pytest

from palm_jax import locks
from palm_jax.api.loading import load
from palm_jax.api.training import build
from tests.support.runs import finetune, losses, run


def refused(result, model_dir, config, *messages):
    """Checks that a run ended with one message and left its directory as it was."""
    assert result.returncode == 2 and 'Traceback' not in result.stderr, result.stderr[-3000:]
    for message in messages:
        assert message in result.stderr, result.stderr[-3000:]
    assert (model_dir / 'config.gin').read_text() == config
    assert not (model_dir / 'lock').exists()


@pytest.fixture(scope='module')
def classifier(made, tmp_path_factory):
    """A classifier of three steps, with its own table; tests copy it."""
    folder = tmp_path_factory.mktemp('second_run')
    shutil.copy(made / 'classes.csv', folder / 'table.csv')
    assert finetune(made, folder / 'run', table=folder / 'table.csv', steps=3).returncode == 0
    return folder


@pytest.fixture
def again(made, classifier, tmp_path):
    """A function that starts the run of `classifier` again, in a copy of its directory."""
    shutil.copytree(classifier / 'run', tmp_path / 'run')
    shutil.copy(classifier / 'table.csv', tmp_path / 'table.csv')
    (tmp_path / 'run' / 'config.gin').write_text(
        (classifier / 'run' / 'config.gin').read_text().replace(str(classifier), str(tmp_path))
    )
    config = (tmp_path / 'run' / 'config.gin').read_text()

    def start(*flags, steps=4):
        return finetune(made, tmp_path / 'run', *flags, table=tmp_path / 'table.csv', steps=steps)

    return start, tmp_path, config


def test_a_finished_run_says_so_and_is_not_taken_back(again):
    start, folder, config = again
    finished = start(steps=3)
    assert finished.returncode == 0 and 'this run was finished at step 3' in finished.stdout, finished.stderr[-2000:]
    flags = ('holds a run of 3 steps, more than TRAIN_STEPS = 2', '--gin.TRAIN_STEPS=6')
    refused(start(steps=2), folder / 'run', config, *flags)
    refused(start('--accept_changes', steps=2), folder / 'run', config, *flags)
    assert 'continuing from step 3' in start(steps=6).stdout  # what the message advises


@pytest.mark.parametrize(
    'change', ['a label', pytest.param('a batch size', marks=pytest.mark.slow), 'a rank', 'other labels']
)
def test_what_has_changed_is_shown_and_needs_consent_or_is_refused(again, change):
    start, folder, config = again
    table, flags = folder / 'table.csv', ()
    rows = table.read_text().splitlines(keepends=True)
    if change == 'a label':
        rows = [row.replace(',no', ',yes') if i < 20 else row for i, row in enumerate(rows)]
        shown = ('holds a run of other data', '-training data: ', '+training data: ', ' rows, sha256 ')
    elif change == 'a batch size':
        flags, shown = ('--gin.BATCH_SIZE=16',), ('another configuration', '-BATCH_SIZE = 32', '+BATCH_SIZE = 16')
    elif change == 'a rank':
        flags, shown = ('--gin.LORA_RANK=4',), ('has other arrays', '(2, 32, 8) there, (2, 32, 4) here')
    else:
        rows = [row.replace(',no', ',never') for row in rows]
        shown = ("was trained with the labels ['no', 'yes']", "['never', 'yes']")
    table.write_text(''.join(rows))
    result = start(*flags)
    refused(result, folder / 'run', config, *shown)
    with_consent = start(*flags, '--accept_changes')
    if change in ('a rank', 'other labels'):
        assert '--accept_changes' not in result.stderr
        refused(with_consent, folder / 'run', config, *shown)
        assert load(folder / 'run').predict(['number 3 is odd'])
        if change == 'a rank':  # what the message advises
            assert f'--gin_file={folder}/run/config.gin' in result.stderr
            assert 'continuing from step 3' in start(f'--gin_file={folder}/run/config.gin').stdout
    else:
        assert '--accept_changes' in result.stderr
        assert with_consent.returncode == 0 and 'continuing from step 3' in with_consent.stdout
        assert all(line in with_consent.stdout + with_consent.stderr for line in shown[1:])  # it is shown then, too
        assert '--accept_changes' not in with_consent.stdout.partition('continue with')[2]
        if change == 'a label':
            unchanged = start(steps=5)  # what was read since is kept
            assert unchanged.returncode == 0 and 'continuing from step 4' in unchanged.stdout, unchanged.stderr[-2000:]


def test_pretraining_text_that_changed_is_noticed(text, tmp_path):
    own = tmp_path / 'text.txt'
    shutil.copy(text, own)
    assert run(own, tmp_path / 'run', '--gin.TRAIN_STEPS=2').returncode == 0
    config = (tmp_path / 'run' / 'config.gin').read_text()
    own.write_text(own.read_text().replace('the square of 7 ', 'the square of 8 '))
    changed = run(own, tmp_path / 'run', '--gin.TRAIN_STEPS=3')
    refused(changed, tmp_path / 'run', config, 'other data', '-training data: ', ' tokens, sha256 ', '--accept_changes')
    assert 'held-out data' not in changed.stderr
    shutil.copy(text, own)
    assert 'continuing from step 2' in run(own, tmp_path / 'run', '--gin.TRAIN_STEPS=3').stdout
    assert [step for step, _ in losses(tmp_path / 'run')] == [1, 2, 3]


def test_one_process_at_a_time_trains_in_a_directory(text, tmp_path):
    folder = tmp_path / 'run'
    folder.mkdir()
    with locks.hold(folder / 'lock', 'it', 'stop.'):
        second = run(text, folder, '--gin.TRAIN_STEPS=1')
    assert second.returncode == 2 and f"MODEL_DIR = '{folder}' is in use by process " in second.stderr, second.stderr
    assert '--gin.MODEL_DIR=...' in second.stderr and not list(folder.iterdir())


@pytest.mark.parametrize(('model_dir', 'message'), [('gs://bucket/run', 'writes to a folder of this machine'),
                                                    ('{text}', 'a file; name a folder')])  # fmt: skip
def test_a_directory_that_cannot_be_one_is_refused(text, tmp_path, model_dir, message):
    result = run(text, model_dir.format(text=text), '--gin.TRAIN_STEPS=1')
    assert result.returncode == 2 and message in result.stderr and 'Traceback' not in result.stderr, result.stderr


def test_a_table_that_was_edited_since_an_earlier_run_of_the_process_is_read_again(base_and_table, tmp_path):
    (_, given), base = base_and_table
    table = tmp_path / 'table.csv'
    shutil.copy(given, table)
    flags = [('TRAIN_FILES', str(table)), base, ('MODEL_DIR', str(tmp_path / 'run')), ('VOCABULARY', 'bytes')]
    for content in (table.read_text(), table.read_text().replace(',a', ',c')):
        table.write_text(content)
        _, arguments = build(['gin/finetune_lora.gin'], flags)
        assert arguments['data'].labels == (('a', 'b') if ',a' in content else ('b', 'c'))
