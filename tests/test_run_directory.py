"""A MODEL_DIR's files, its checkpoints, and what a checkpoint says of itself."""

import dataclasses
import json
import subprocess
import sys

import pytest

from palm_jax.checkpoint_metadata import BestScore, CheckpointMetadata, metadata_folder, read_metadata
from palm_jax.errors import UserError
from palm_jax.run_directory import RunDirectory, find_checkpoint, is_checkpoint


def make_checkpoint(folder, step, metadata='metadata', **record):
    checkpoint = folder / str(step)
    (checkpoint / 'state').mkdir(parents=True)
    (checkpoint / metadata).mkdir()
    (checkpoint / metadata / 'metadata').write_text(json.dumps(record))
    return checkpoint


@pytest.fixture
def run(tmp_path):
    """A run with the checkpoints 2, 10 and an unfinished 11."""
    directory = RunDirectory(tmp_path / 'run')
    for step in (2, 10):
        make_checkpoint(directory.checkpoints, step, vocabulary='bytes')
    (directory.checkpoints / '11').mkdir()
    (directory.checkpoints / 'damaged-12' / 'state').mkdir(parents=True)
    return directory


def test_it_is_known_without_anything_heavy():
    modules = {'jax', 'numpy', 'orbax', 'gin'}
    code = f'import sys, palm_jax.run_directory, palm_jax.checkpoint_metadata; assert not {modules} & set(sys.modules)'
    subprocess.run([sys.executable, '-c', code], check=True)


def test_an_empty_folder_holds_nothing(tmp_path):
    run = RunDirectory(str(tmp_path))
    assert run.path == tmp_path and str(run) == str(tmp_path)
    assert (run.steps(), run.latest(), run.best(), run.vocabulary) == ([], None, None, None)


def test_files_have_the_names_that_programs_and_users_know(tmp_path):
    run = RunDirectory(tmp_path)
    paths = (run.config, run.metrics, run.summary, run.predictions, run.evaluation, run.checkpoint(7), run.seed(1).path)
    assert [path.relative_to(tmp_path).as_posix() for path in paths] == [
        *('config.gin', 'metrics.jsonl', 'summary.json', 'predictions.jsonl', 'eval.json'),
        *('checkpoints/7', 'seed_1'),
    ]


def test_it_is_known_whether_a_run_was_interrupted(run):
    """The newest checkpoint is that of step 10."""
    assert run.interrupted_at(20) is None  # weights from elsewhere, which were not trained here
    run.metrics.touch()
    assert run.interrupted_at(20) == 10 and run.interrupted_at(10) is None
    run.summary.write_text('{"step": 10}')
    assert run.interrupted_at(20) is None  # it stopped early
    run.summary.write_text('{"step": 2}')
    assert run.interrupted_at(20) == 10  # it had ended after step 2, and was continued
    make_checkpoint(run.best_checkpoints, 2, vocabulary='bytes')
    assert run.interrupted_at(20) is None  # step 2 was the best one


def test_a_home_directory_is_expanded(monkeypatch, run):
    monkeypatch.setenv('HOME', str(run.path.parent))
    assert find_checkpoint('~/run') == run.checkpoint(10)


@pytest.mark.parametrize('name', ['vocabulary.model', 'vocabulary.json'])
def test_the_vocabulary_is_the_file_that_is_there(tmp_path, name):
    (tmp_path / name).write_text('')
    assert RunDirectory(tmp_path).vocabulary == tmp_path / name


def test_steps_are_the_finished_checkpoints_in_numeric_order(run):
    assert run.steps() == [2, 10] and run.latest() == run.checkpoint(10) and run.best() is None
    assert is_checkpoint(run.checkpoint(2)) and not is_checkpoint(run.checkpoint(11))
    assert RunDirectory.of_checkpoint(run.checkpoint(2)) == run


@pytest.mark.parametrize(('path', 'step'), [('', 10), ('checkpoints', 10), ('checkpoints/2', 2)])
def test_a_path_is_a_run_a_folder_of_checkpoints_or_a_checkpoint(run, path, step):
    assert find_checkpoint(run.path / path) == find_checkpoint(str(run.path / path)) == run.checkpoint(step)


def test_the_best_checkpoint_goes_before_the_newest(run):
    best = make_checkpoint(run.best_checkpoints, 5)
    assert run.best() == best == find_checkpoint(run.path)
    assert find_checkpoint(run.checkpoints) == run.checkpoint(10)


def test_a_path_without_a_checkpoint_is_refused_with_what_exists(run, tmp_path):
    with pytest.raises(UserError, match=r"PATH = '.*/7' is not a checkpoint, nor a MODEL_DIR .* the steps 2, 10\."):
        find_checkpoint(run.checkpoint(7), 'PATH')
    with pytest.raises(UserError, match=r'INITIAL_CHECKPOINT_PATH = .*none.* palm-jax train'):
        find_checkpoint(tmp_path / 'none')
    with pytest.raises(UserError, match=r'--gin\.INITIAL_CHECKPOINT_PATH=runs/tiny'):
        find_checkpoint(None)


WHOLE = CheckpointMetadata(
    vocabulary='bytes',
    architecture={'vocab_size': 256, 'num_layers': 2},
    labels=('no', 'yes'),
    base='0123456789abcdef',
    unlogged={'loss': (0.1 + 0.2, 3.0)},
    recent={'loss': [1.0, 2.0]},
    best=BestScore('accuracy', 0.75),
)


@dataclasses.dataclass
class Sizes:
    num_layers: int = 2


def test_metadata_of_a_model():
    metadata = CheckpointMetadata.of_model(Sizes(), 'bytes', ['no', 'yes'])
    assert metadata == CheckpointMetadata('bytes', {'num_layers': 2}, ('no', 'yes'))
    assert CheckpointMetadata.of_model(Sizes(), 'bytes', []).labels is None


@pytest.mark.parametrize('metadata', [CheckpointMetadata(), CheckpointMetadata(vocabulary='bytes'), WHOLE])
def test_metadata_come_back_from_json(metadata):
    assert CheckpointMetadata.from_json(json.loads(json.dumps(metadata.to_json()))) == metadata


def test_metadata_of_before_are_read(tmp_path):
    former = {
        'vocabulary': 'bytes',
        'architecture': {'vocab_size': 256},
        'labels': ['no', 'yes'],
        'unlogged': {'loss': [1.5, 3.0]},
        'best': {'measure': 'accuracy', 'value': 0.75},
    }
    checkpoint = make_checkpoint(tmp_path, 3, 'about', **former)
    assert metadata_folder(checkpoint) == checkpoint / 'about'
    assert read_metadata(checkpoint) == CheckpointMetadata(
        vocabulary='bytes',
        architecture={'vocab_size': 256},
        labels=('no', 'yes'),
        unlogged={'loss': (1.5, 3.0)},
        best=BestScore('accuracy', 0.75),
    )


def test_missing_and_damaged_metadata_are_named(tmp_path):
    (tmp_path / '1' / 'state').mkdir(parents=True)
    with pytest.raises(UserError, match=r'1 has no `metadata` folder'):
        read_metadata(tmp_path / '1')
    checkpoint = make_checkpoint(tmp_path, 2)
    for text in ('{', '[]', '{"labels": 3}'):
        (checkpoint / 'metadata' / 'metadata').write_text(text)
        with pytest.raises(UserError, match=r'2/metadata/metadata is damaged'):
            read_metadata(checkpoint)


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        ({'vocabulary': 'sentencepiece_9_x'}, 'vocabulary bytes, but this run uses sentencepiece_9_x'),
        ({'labels': ('no', 'perhaps')}, r"labels \['no', 'yes'\], but the data now has \['no', 'perhaps'\]"),
        ({'labels': None}, 'but the data now has None'),
        ({'base': 'another'}, 'on top of the base 0123456789abcdef, but INITIAL_CHECKPOINT_PATH holds another'),
    ],
)
def test_another_run_is_refused_with_both_values(tmp_path, change, message):
    same = {'vocabulary': 'bytes', 'labels': ('no', 'yes'), 'base': '0123456789abcdef'}
    WHOLE.check_compatible(CheckpointMetadata(**same), tmp_path)
    with pytest.raises(UserError, match=message):
        WHOLE.check_compatible(CheckpointMetadata(**(same | change)), tmp_path)
