"""Every way in which the files of a run may be damaged is noticed, said, and survived with what is intact."""

import contextlib
import dataclasses
import json
import logging
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from palm_jax.checkpoint_metadata import seal_file
from palm_jax.errors import UserError
from palm_jax.run_directory import RunDirectory, find_checkpoint, repair_files
from palm_jax.training import integrity
from palm_jax.training.batch_sizes import BatchSizes
from palm_jax.training.best import BestCheckpoint, BestMetric
from palm_jax.training.checkpoints import Checkpoints
from palm_jax.training.resume import Restorer
from palm_jax.training.rollback import finish_interrupted
from palm_jax.training.spikes import SpikeGuard, SpikeRule
from palm_jax.training.writers import Jsonl, read_jsonl
from tests.support.metadata import METADATA

CONFIG = "TRAIN_STEPS = 20\nMODEL_DIR = 'run'\n" + ''.join(f'MACRO_{i} = {i}\n' for i in range(50))
FILES = {'config.gin': CONFIG.encode(), 'vocabulary.model': bytes(range(1, 256)) * 9}
BEST = BestMetric('loss')


def at_step(state, step):
    return dataclasses.replace(state, step=jnp.int32(step), params=jax.tree.map(lambda x: x + step, state.params))


@pytest.fixture(scope='module')
def restorer(setup, mesh):
    return Restorer(setup(), mesh, 3, None, METADATA)


@pytest.fixture(scope='module')
def begun(restorer):
    return restorer.begin()


@pytest.fixture(scope='module')
def whole(begun, tmp_path_factory):
    """A MODEL_DIR with checkpoints at 5 and 10, the best one at 5, and the other files of a run."""
    run = RunDirectory(tmp_path_factory.mktemp('whole') / 'run')
    run.path.mkdir()
    guard = SpikeGuard(SpikeRule(), run.path)
    guard.skip(2, 3, 'loss is nan', BatchSizes.of(4))
    shared = {'files': FILES, 'skips': lambda: guard.records}
    with (
        contextlib.closing(Checkpoints(run.checkpoints, 2, METADATA, **shared)) as checkpoints,
        contextlib.closing(BestCheckpoint(BEST, run.best_checkpoints, METADATA, 5, **shared)) as best,
    ):
        for step in (5, 10):
            checkpoints.save(at_step(begun, step), step)
            best.offer(at_step(begun, step), step, {'loss': float(step)})
    for name, content in FILES.items():
        (run.path / name).write_bytes(content)
    run.metrics.write_text(''.join(json.dumps({'step': step, 'train/loss': 1.0}) + '\n' for step in range(1, 11)))
    assert len(guard.skips) == 1
    return run


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def zero(path):
    path.write_bytes(path.read_bytes()[:20] + bytes(path.stat().st_size - 20))


def arrays(checkpoint):
    return max((path for path in checkpoint.rglob('d/*') if path.is_file()), key=lambda path: path.stat().st_size)


def metadata(checkpoint):
    return checkpoint / 'metadata' / 'metadata'


def checksums(checkpoint):
    return seal_file(checkpoint, 0)


def without_an_entry(checkpoint):
    record = json.loads(checksums(checkpoint).read_text())
    del record['files'][arrays(checkpoint).relative_to(checkpoint).as_posix()]
    checksums(checkpoint).write_text(json.dumps(record))


def flipped_with_its_checksum(checkpoint):
    flip(arrays(checkpoint))
    record = json.loads(checksums(checkpoint).read_text())
    name = arrays(checkpoint).relative_to(checkpoint).as_posix()
    record['files'][name] = integrity._sha256(arrays(checkpoint))
    checksums(checkpoint).write_text(json.dumps(record))


def flipped_without_checksums(checkpoint):
    flip(arrays(checkpoint))
    checksums(checkpoint).unlink()


def cut_without_checksums(checkpoint):
    cut(arrays(checkpoint))
    cut(metadata(checkpoint))
    checksums(checkpoint).unlink()


def instead(path, make):
    path.unlink()
    make(path)


def emptied(folder):
    for path in folder.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def filled(folder):
    folder.mkdir(parents=True)
    (folder / 'notes.txt').write_text('mine')


# What is done to the newest checkpoint; what the run says. It continues from the one before.
OF_THE_NEWEST = {
    'a flipped bit': (lambda c: flip(arrays(c)), 'its checksum differs'),
    'cut arrays': (lambda c: cut(arrays(c)), 'its checksum differs'),
    'no arrays': (lambda c: arrays(c).unlink(), 'is missing'),
    'empty arrays': (lambda c: arrays(c).write_bytes(b''), 'its checksum differs'),
    'zeros': (lambda c: zero(arrays(c)), 'its checksum differs'),
    'no state': (lambda c: shutil.rmtree(c / 'state'), 'state is missing'),
    'no list of arrays': (lambda c: (c / 'state' / '_METADATA').unlink(), '_METADATA is missing'),
    'no file of Orbax': (lambda c: (c / '_CHECKPOINT_METADATA').unlink(), '_CHECKPOINT_METADATA is missing'),
    'no metadata': (lambda c: shutil.rmtree(c / 'metadata'), 'metadata is missing'),
    'flipped metadata': (lambda c: flip(metadata(c)), 'its checksum differs'),
    'cut metadata': (lambda c: cut(metadata(c)), 'its checksum differs'),
    'empty metadata': (lambda c: metadata(c).write_bytes(b''), 'its checksum differs'),
    'metadata that is not text': (lambda c: metadata(c).write_bytes(b'\xff\xfe'), 'its checksum differs'),
    'nothing inside': (emptied, 'state is missing'),
    'no checksums': (lambda c: checksums(c).unlink(), 'not written to its end'),
    'checksums that are a list': (lambda c: checksums(c).write_text('[]'), 'checksums-0.json is damaged'),
    'checksums of nothing': (lambda c: checksums(c).write_text('{}'), 'checksums-0.json is damaged'),
    'a number for checksums': (lambda c: checksums(c).write_text('1'), 'checksums-0.json is damaged'),
    'checksums that are numbers': (lambda c: checksums(c).write_text('{"state": 1}'), 'checksums-0.json is damaged'),
    'cut checksums': (lambda c: cut(checksums(c)), 'checksums-0.json is damaged'),
    'empty checksums': (lambda c: checksums(c).write_text(''), 'checksums-0.json is damaged'),
    'checksums that are not text': (lambda c: checksums(c).write_bytes(b'\xff\xfe'), 'checksums-0.json is damaged'),
    'checksums that are a folder': (lambda c: instead(checksums(c), Path.mkdir), 'checksums-0.json is damaged'),
    'checksums that are elsewhere': (
        lambda c: instead(checksums(c), lambda path: path.symlink_to('/nowhere')),
        'checksums-0.json is damaged',
    ),
    'checksums in a circle': (
        lambda c: instead(checksums(c), lambda path: path.symlink_to(path)),
        'checksums-0.json is damaged',
    ),
    'deep checksums': (lambda c: checksums(c).write_text('[' * 100_000), 'checksums-0.json is damaged'),
    'deep metadata': (lambda c: metadata(c).write_text('[' * 100_000), 'its checksum differs'),
    'a checksum less': (without_an_entry, 'it has been changed'),
    'a flipped bit with its checksum': (flipped_with_its_checksum, 'it has been changed'),
    'checksums of another step': (lambda c: shutil.copy(checksums(c.with_name('5')), c), 'saved as step 5'),
    'a flipped bit without checksums': (flipped_without_checksums, 'not written to its end'),
    'cut without checksums': (cut_without_checksums, 'not written to its end'),
    'another number': (lambda c: c.rename(c.with_name('12')), 'saved as step 10'),
    'a cut copy of the configuration': (lambda c: cut(c / 'config.gin'), 'its checksum differs'),
}


@dataclasses.dataclass
class Opened:
    """What a start of the run finds."""

    step: int
    state: object
    best: int | None
    guard: SpikeGuard


@pytest.fixture
def opened(whole, restorer, tmp_path, caplog):
    """Copies the run, damages it, and opens it as a start of training does."""
    caplog.set_level(logging.WARNING)

    def open_(damage=lambda run: None):
        run = RunDirectory(tmp_path / 'run')
        shutil.copytree(whole.path, run.path)
        damage(run)
        repair_files(run)
        guard = SpikeGuard(SpikeRule(), run.path)
        with (
            contextlib.closing(Checkpoints(run.checkpoints, 2, METADATA)) as checkpoints,
            contextlib.closing(BestCheckpoint(BEST, run.best_checkpoints, METADATA, 5)) as best,
        ):
            if checkpoints.latest is not None:
                guard.adopt(checkpoints.metadata(checkpoints.latest).skips)
            finish_interrupted(guard, [checkpoints, best])
            state = restorer.resume(checkpoints).state
            return Opened(int(state.step), state, best.step, guard)

    return open_


def assert_state(opened, begun, step):
    expected = at_step(begun, step) if step else begun
    jax.tree.map(np.testing.assert_array_equal, opened.state, expected)


def test_a_whole_run_says_nothing(opened, begun, caplog):
    found = opened()
    assert (found.step, found.best, len(found.guard.skips)) == (10, 5, 1) and not caplog.records
    assert_state(found, begun, 10)


@pytest.mark.parametrize('damage', OF_THE_NEWEST)
def test_a_damaged_newest_checkpoint_is_said_and_the_one_before_is_used(opened, begun, caplog, tmp_path, damage):
    hurt, said = OF_THE_NEWEST[damage]
    found = opened(lambda run: hurt(run.checkpoint(10)))
    assert found.step == 5 and found.best == 5
    assert_state(found, begun, 5)
    (record,) = caplog.records
    assert said in record.getMessage() and 'renamed to' in record.getMessage()
    (aside,) = {path.name for path in (tmp_path / 'run' / 'checkpoints').iterdir()} - {'5'}
    assert aside.startswith(('damaged-1', 'unfinished-1'))  # what is left of it stays


def test_all_damaged_begins_from_scratch(opened, begun, caplog):
    found = opened(lambda run: [flip(arrays(run.checkpoint(step))) for step in (5, 10)])
    assert_state(found, begun, 0)
    assert 'damaged-10' in caplog.text and 'damaged-5' in caplog.text and 'there is no earlier one' in caplog.text


def copied(run):
    shutil.copytree(run.checkpoint(10), run.checkpoint(99999))


def old_copied(run):
    """A copy, with the checksums of an earlier version, which do not say their step."""
    copied(run)
    record = json.loads(checksums(run.checkpoint(99999)).read_text())
    checksums(run.checkpoint(99999)).write_text(json.dumps(record['files']))


# What lies around; what the run says about it. It continues from the newest checkpoint.
AROUND = {
    'a copy with a higher number': (copied, 'saved as step 10', None),
    'a folder of the user': (lambda run: filled(run.checkpoint(99999)), '99999 is not a checkpoint', '99999'),
    'a folder of the user between': (lambda run: filled(run.checkpoint(7)), '7 is not a checkpoint', '7'),
    'a folder with a name': (lambda run: filled(run.checkpoints / 'notes'), None, 'notes'),
    'a number with zeros': (lambda run: filled(run.checkpoints / '00099'), None, '00099'),
    'a file with a number': (lambda run: (run.checkpoints / '99999').write_text(''), None, '99999'),
    'an interrupted save': (lambda run: filled(run.checkpoints / '15.orbax-checkpoint-tmp'), None, None),
    'an interrupted deletion': (lambda run: filled(run.checkpoints / 'superseded' / '4'), None, None),
    'an earlier damage': (lambda run: filled(run.checkpoints / 'damaged-3'), None, 'damaged-3'),
    'a file of the system': (lambda run: (run.checkpoint(10) / '.DS_Store').write_text(''), None, '10/.DS_Store'),
    'a half written configuration': (lambda run: (run.path / 'config.gin.unfinished').write_text('TR'), None, None),
}


@pytest.mark.parametrize('thing', AROUND)
def test_what_lies_around_changes_nothing(opened, begun, caplog, tmp_path, thing):
    make, said, stays = AROUND[thing]
    found = opened(make)
    assert (found.step, found.best) == (10, 5)
    assert_state(found, begun, 10)
    assert said in caplog.text if said else not caplog.records
    assert stays is None or (tmp_path / 'run' / 'checkpoints' / stays).exists()


def test_an_old_copy_with_a_higher_number_is_refused(opened):
    with pytest.raises(UserError, match=r'99999 holds the state of step 10: its folder was renamed or copied'):
        opened(old_copied)


def change(name, content):
    return lambda run: (run.path / name).write_bytes(content)


# What is done to the other files of a run; whether and how it is said.
OF_FILES = {
    'a cut configuration': (lambda run: cut(run.config), 'config.gin was incomplete or missing'),
    'an empty configuration': (change('config.gin', b''), 'config.gin was incomplete or missing'),
    'a configuration that ends in zeros': (lambda run: zero(run.config), 'config.gin was incomplete or missing'),
    'no configuration': (lambda run: run.config.unlink(), 'config.gin was incomplete or missing'),
    'a cut vocabulary': (lambda run: cut(run.sentencepiece_vocabulary), 'vocabulary.model was incomplete or missing'),
    'no vocabulary': (lambda run: run.sentencepiece_vocabulary.unlink(), 'vocabulary.model was incomplete or missing'),
    'cut skips': (lambda run: cut(run.skipped_batches), 'skipped.json has been restored'),
    'no skips': (lambda run: run.skipped_batches.unlink(), 'skipped.json has been restored'),
    'skips of another form': (change('skipped.json', b'{"a": 1}'), 'skipped.json has been restored'),
    'skips that are not text': (change('skipped.json', b'\xff\xfe'), 'skipped.json has been restored'),
}


@pytest.mark.parametrize('damage', OF_FILES)
def test_other_files_are_restored_from_the_checkpoint(opened, begun, whole, caplog, tmp_path, damage):
    hurt, said = OF_FILES[damage]
    found = opened(hurt)
    assert (found.step, len(found.guard.skips)) == (10, 1)
    assert_state(found, begun, 10)
    assert said in caplog.text
    for name in ('config.gin', 'vocabulary.model', 'skipped.json'):
        assert (tmp_path / 'run' / name).read_bytes() == (whole.path / name).read_bytes(), name


def test_a_configuration_that_the_user_edited_stays(opened, caplog, tmp_path):
    opened(change('config.gin', CONFIG.replace('20', '30').encode()))
    assert not caplog.records and 'TRAIN_STEPS = 30' in (tmp_path / 'run' / 'config.gin').read_text()


@pytest.mark.parametrize(
    ('hurt', 'steps', 'said'),
    [
        (lambda text: text[:-4], range(1, 10), False),  # as a kill leaves it
        (lambda text: text.replace('{"step": 4,', '{"st', 1), [1, 2, 3, 5, 6, 7, 8, 9, 10], True),
        (lambda text: text.replace('{"step": 4,', '\x00\x00', 1), [1, 2, 3, 5, 6, 7, 8, 9, 10], True),
        (lambda text: text + '[]\n', range(1, 11), True),
        (lambda text: '', [], False),
    ],
)
def test_metrics_lose_no_line_that_can_be_read(whole, tmp_path, caplog, hurt, steps, said):
    path = RunDirectory(tmp_path).metrics
    path.write_text(hurt(whole.metrics.read_text()))
    writer = Jsonl()
    writer.open(tmp_path, 10, '')
    writer.close()
    assert [record['step'] for record in read_jsonl(path)] == list(steps)
    assert ('lines are damaged' in caplog.text) == said


@pytest.mark.parametrize('hurt', [lambda c: flip(arrays(c)), lambda c: checksums(c).unlink()])
def test_a_damaged_best_checkpoint_is_said(opened, begun, caplog, hurt):
    found = opened(lambda run: hurt(run.best_checkpoints / '5'))
    assert found.best is None and '-5' in caplog.text
    assert_state(found, begun, 10)


# What users of the run see.


def test_programs_that_use_a_run_pass_over_an_unfinished_checkpoint_and_say_so(whole, tmp_path, caplog):
    shutil.copytree(whole.checkpoints, tmp_path / 'checkpoints')
    checksums(tmp_path / 'checkpoints' / '10').unlink()
    assert find_checkpoint(tmp_path) == tmp_path / 'checkpoints' / '5'
    assert f'{tmp_path}/checkpoints/10 was not written to its end' in caplog.text
    with pytest.raises(UserError, match='unfinished checkpoint'):
        find_checkpoint(tmp_path / 'checkpoints' / '10')


def test_a_save_that_cannot_be_done_is_said(begun, tmp_path):
    """A folder of the user has the number; Orbax would decline a step below that of any folder."""
    filled(tmp_path / '7')
    filled(tmp_path / '99999')
    with contextlib.closing(Checkpoints(tmp_path, 2, METADATA)) as checkpoints:
        checkpoints.save(at_step(begun, 5), 5)
        checkpoints.wait()
        assert checkpoints.steps == [5] and integrity.problem(tmp_path / '5') is None
        with pytest.raises(UserError, match=r'Step 7 cannot be saved: .*/7 exists and is not a checkpoint'):
            checkpoints.save(at_step(begun, 7), 7)
    assert (tmp_path / '7' / 'notes.txt').read_text() == (tmp_path / '99999' / 'notes.txt').read_text() == 'mine'


def test_a_save_that_orbax_declines_is_said(begun, tmp_path, monkeypatch):
    with contextlib.closing(Checkpoints(tmp_path, 2, METADATA)) as checkpoints:
        monkeypatch.setattr(checkpoints._manager, 'save', lambda *args, **kwargs: False)
        with pytest.raises(UserError, match='declined to save step 5'):
            checkpoints.save(at_step(begun, 5), 5)


def test_checksums_that_cannot_be_stored_are_said(begun, tmp_path, monkeypatch):
    def full(*args):
        raise OSError(28, 'No space left on device')

    checkpoints = Checkpoints(tmp_path, 2, METADATA)
    checkpoints.save(at_step(begun, 5), 5)
    checkpoints.wait()
    monkeypatch.setattr(integrity, 'write_whole', full)
    checkpoints.save(at_step(begun, 10), 10)
    with pytest.raises(UserError, match=r'No space left on device.*/5 is intact'):
        checkpoints.wait()
    assert find_checkpoint(tmp_path) == tmp_path / '5'


def test_an_unfinished_checkpoint_is_replaced_when_its_step_is_saved(whole, begun, tmp_path):
    shutil.copytree(whole.checkpoints, tmp_path / 'checkpoints')
    checksums(tmp_path / 'checkpoints' / '10').unlink()
    with contextlib.closing(Checkpoints(tmp_path / 'checkpoints', 2, METADATA)) as checkpoints:
        assert (tmp_path / 'checkpoints' / 'unfinished-10').exists()
        checkpoints.save(at_step(begun, 10), 10)
    assert {path.name for path in (tmp_path / 'checkpoints').iterdir()} == {'5', '10'}


@pytest.mark.parametrize('folder', ['metadata', 'about'])
def test_checkpoints_of_earlier_versions_open(opened, begun, caplog, folder):
    """Their metadata does not say that checksums belong to them; a finished one may have none."""

    def age(run):
        for file in (metadata(run.checkpoint(10)), checksums(run.checkpoint(10))):
            record = json.loads(file.read_text())
            record.pop('sealed', None)
            file.write_text(json.dumps(record))
        checksums(run.checkpoint(10)).unlink()
        metadata(run.checkpoint(10)).parent.rename(run.checkpoint(10) / folder)

    found = opened(age)
    assert_state(found, begun, 10)
    assert '10 has no checksums, as in earlier versions' in caplog.text


def test_checksums_of_earlier_versions_are_compared(opened, caplog):
    def age(run):
        record = json.loads(checksums(run.checkpoint(10)).read_text())['files']
        del record[arrays(run.checkpoint(10)).relative_to(run.checkpoint(10)).as_posix()]
        checksums(run.checkpoint(10)).write_text(json.dumps(record))

    assert opened(age).step == 5
    assert 'has no checksum;' in caplog.text
