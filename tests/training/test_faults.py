"""Whatever happens to a run, it continues as if nothing had: bit for bit, with nothing saved lost."""

import dataclasses
import json
import logging
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from palm_jax.checkpoint_metadata import CheckpointMetadata
from palm_jax.data.pretraining.corpus import Corpus
from palm_jax.data.pretraining.dataset import LanguageModelData
from palm_jax.errors import UserError
from palm_jax.models.palm import Architecture, PaLM
from palm_jax.training import integrity, loop, optimizers, schedules
from palm_jax.training.checkpoints import Checkpoints
from palm_jax.training.initial_parameters import restore_params
from palm_jax.training.losses import LanguageModelLoss
from palm_jax.training.metrics import Ratio
from palm_jax.training.spikes import SpikeRule
from palm_jax.training.writers import Jsonl

POISON = 3 + ord('#')


@pytest.fixture(scope='module')
def texts(tmp_path_factory):
    folder = tmp_path_factory.mktemp('texts')
    (folder / 'text.txt').write_text('\n'.join(f'the square of {i} is {i * i}.' for i in range(900)))
    poisoned = [f'the square of {i} is {"#" * 9 if i in (170, 600) else i * i}.' for i in range(900)]
    (folder / 'poisoned.txt').write_text('\n'.join(poisoned))
    return folder


class Report:
    """Nothing but the loss."""

    def values(self):
        return {'loss': 0.0}

    def write(self, directory):
        """No files."""

    def text(self, directory, command):
        return ''


@dataclasses.dataclass(frozen=True)
class Poisoned:
    """A loss that a # in the text makes much larger, or no number."""

    factor: float
    of_text: LanguageModelLoss = LanguageModelLoss()

    def __call__(self, model, params, batch, dropout_rng=None):
        total, metrics = self.of_text(model, params, batch, dropout_rng)
        factor = jnp.where((batch['decoder_target_tokens'] == POISON).any(), self.factor, 1.0)
        loss = metrics['loss']
        return total * factor, metrics | {'loss': Ratio(loss.total * factor, loss.count)}


class Recorded:
    """Data that remembers which sequences were read, and is lost at a step, or ends the process after some."""

    def __init__(self, data, lost_at=None, killed_after=None):
        self._data, self.read, self._lost_at, self._killed_after = data, [], lost_at, killed_after

    def batch(self, first, size):
        if first == self._lost_at:
            raise UserError('the file is gone')
        if len(self.read) == self._killed_after:
            raise KeyboardInterrupt
        self.read.append(first)
        return self._data.batch(first, size)

    def __getattr__(self, name):
        return getattr(self._data, name)


def run(texts, model_dir, total_steps, file='text.txt', lost_at=None, killed_after=None, **changes):
    data = LanguageModelData(Corpus('unused', 'bytes', train_files=str(texts / file)), {'targets': 32}, seed=4)
    data = Recorded(data, lost_at, killed_after)
    arch = Architecture(vocab_size=259, num_layers=1, d_model=16, num_heads=2, head_dim=8, dropout_rate=0.1)
    settings = {
        'periods': loop.Periods(log=3, evaluate=50, checkpoint=5, evaluate_batches=1, keep=3),
        'writers': (Jsonl(),),
        'batch_size': 4,
    }
    code = loop.train(
        model_dir=str(model_dir), model=PaLM(arch), data=data, reporter=lambda finished: Report(),
        optimizer=optimizers.adamw(schedules.constant(1e-3)), total_steps=total_steps, **(settings | changes),
    )  # fmt: skip
    assert code == 0
    return data


def state_of(model_dir):
    import orbax.checkpoint as ocp

    (step,) = [max(int(p.name) for p in (model_dir / 'checkpoints').iterdir() if p.name.isdigit())]
    tree = ocp.StandardCheckpointer().restore((model_dir / 'checkpoints' / str(step) / 'state').absolute())
    return {jax.tree_util.keystr(k): np.asarray(v) for k, v in jax.tree_util.tree_leaves_with_path(tree)}


def metrics_of(model_dir):
    lines = map(json.loads, (model_dir / 'metrics.jsonl').read_text().splitlines())
    return [{k: v for k, v in line.items() if not k.startswith('speed/')} for line in lines if 'train/loss' in line]


def assert_same(one, other):
    assert metrics_of(one) == metrics_of(other)
    a, b = state_of(one), state_of(other)
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)


# Damaged checkpoints.


@pytest.fixture(scope='module')
def whole(texts, tmp_path_factory):
    """A run of 20 steps, and one of 10 with checkpoints at 5 and 10."""
    folder = tmp_path_factory.mktemp('whole')
    run(texts, folder / 'twenty', 20)
    run(texts, folder / 'ten', 10)
    return folder


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def files_of(step):
    return sorted(
        (p for p in step.rglob('*') if p.is_file() and 'checksums' not in p.name), key=lambda p: p.stat().st_size
    )


DAMAGE = {
    'flipped': (lambda step: flip(files_of(step)[-1]), 'is damaged: its checksum'),
    'flipped metadata': (lambda step: flip(step / 'metadata' / 'metadata'), 'is damaged: its checksum'),
    'cut': (lambda step: files_of(step)[-1].write_bytes(files_of(step)[-1].read_bytes()[:-7]), 'is damaged'),
    'missing': (lambda step: files_of(step)[-1].unlink(), 'is missing'),
    'without metadata': (lambda step: shutil.rmtree(step / 'metadata'), 'metadata is missing'),
    'empty': (
        lambda step: [shutil.rmtree(p) if p.is_dir() else p.unlink() for p in step.iterdir()],
        'state is missing',
    ),
}


@pytest.mark.parametrize('damage', DAMAGE)
def test_a_damaged_newest_checkpoint_is_named_and_the_one_before_is_used(texts, whole, tmp_path, caplog, damage):
    caplog.set_level(logging.INFO)
    shutil.copytree(whole / 'ten', tmp_path / 'run')
    hurt, message = DAMAGE[damage]
    hurt(tmp_path / 'run' / 'checkpoints' / '10')
    run(texts, tmp_path / 'run', 20)
    assert 'checkpoint 10 is damaged and was renamed to damaged-10' in caplog.text and message in caplog.text
    assert 'continuing from step 5 ' in caplog.text
    assert_same(whole / 'twenty', tmp_path / 'run')


def test_every_flipped_byte_is_seen(whole, tmp_path):
    shutil.copytree(whole / 'ten' / 'checkpoints' / '10', tmp_path / '10')
    assert integrity.problem(tmp_path / '10') is None
    for path in files_of(tmp_path / '10'):
        content = path.read_bytes()
        if content:
            flip(path)
            assert str(path) in integrity.problem(tmp_path / '10')
            path.write_bytes(content)
    assert integrity.problem(tmp_path / '10') is None


def test_a_run_whose_checkpoints_are_all_damaged_begins_anew_and_says_so(texts, whole, tmp_path, caplog):
    shutil.copytree(whole / 'ten', tmp_path / 'run')
    for step in (5, 10):
        flip(files_of(tmp_path / 'run' / 'checkpoints' / str(step))[-1])
    run(texts, tmp_path / 'run', 20)
    assert 'checkpoint 5 is damaged and was renamed to damaged-5' in caplog.text
    assert 'there is no earlier one' in caplog.text
    assert_same(whole / 'twenty', tmp_path / 'run')


def test_a_damaged_base_is_refused_and_the_one_before_named(whole, tmp_path):
    shutil.copytree(whole / 'ten', tmp_path / 'run')
    flip(files_of(tmp_path / 'run' / 'checkpoints' / '10')[-1])
    with pytest.raises(
        UserError, match=r'checkpoints/10 cannot be used: .* is damaged.*The checkpoint before it is .*/5\.'
    ):
        restore_params(str(tmp_path / 'run'), {}, CheckpointMetadata(vocabulary='bytes'))


def test_every_kth_checkpoint_stays(texts, tmp_path):
    periods = loop.Periods(log=3, evaluate=50, checkpoint=2, evaluate_batches=1, keep=1, keep_every=6)
    run(texts, tmp_path, 14, periods=periods)
    assert {int(p.name) for p in (tmp_path / 'checkpoints').iterdir()} == {6, 12, 14}


# Lost data.


def test_data_that_is_lost_on_the_way_loses_nothing_else(texts, whole, tmp_path):
    with pytest.raises(UserError, match=r'(?s)the file is gone\nStep 13 is saved. Continue with'):
        run(texts, tmp_path / 'run', 20, lost_at=13 * 4)
    assert (tmp_path / 'run' / 'checkpoints' / '13').is_dir()
    run(texts, tmp_path / 'run', 20)
    assert_same(whole / 'twenty', tmp_path / 'run')


# Spikes.

RULE = SpikeRule(
    window=6, loss_threshold=8.0, gradient_threshold=None, rewind_steps=4, skip_steps_after=2, max_rollbacks=4
)


@pytest.mark.parametrize('factor', [float('nan'), pytest.param(30.0, marks=pytest.mark.slow)])
def test_batches_around_a_spike_are_left_out_and_the_run_is_reproducible(texts, tmp_path, factor):
    settings = {'file': 'poisoned.txt', 'loss': Poisoned(factor), 'spikes': RULE}
    data = run(texts, tmp_path / 'whole', 60, **settings)
    skips = json.loads((tmp_path / 'whole' / 'skipped.json').read_text())
    assert len(skips) == 2 and all(skip['step'] <= skip['spike_step'] for skip in skips)
    losses = metrics_of(tmp_path / 'whole')
    assert [line['step'] for line in losses] == list(range(3, 61, 3))
    assert all(line['train/loss'] < 7 for line in losses)
    # The batches trained on are those read after the last rewind.
    poisoned = [bool((data._data.batch(first, 4)['decoder_target_tokens'] == POISON).any()) for first in data.read]
    assert any(poisoned) and not any(poisoned[-20:])
    assert data.read[-1] == 59 * 4 + sum(skip['sequences'] for skip in skips if not skip['superseded'])
    # Interrupted before, between and after, it is the same run.
    for reads in (7, 3, 11, 25):
        with pytest.raises(KeyboardInterrupt):
            run(texts, tmp_path / 'cut', 60, killed_after=reads, **settings)
    run(texts, tmp_path / 'cut', 60, **settings)
    assert_same(tmp_path / 'whole', tmp_path / 'cut')
    assert json.loads((tmp_path / 'cut' / 'skipped.json').read_text()) == skips


def test_a_spike_of_fine_tuning_keeps_the_frozen_base(texts, whole, tmp_path):
    """Every step donates the whole state, so a rollback takes the frozen part from the newest state."""
    settings = {'initial_checkpoint': str(whole / 'ten'), 'trainable': ['.*scale'], 'spikes': RULE}
    run(texts, tmp_path, 60, file='poisoned.txt', loss=Poisoned(float('nan')), **settings)
    assert json.loads((tmp_path / 'skipped.json').read_text())
    assert metrics_of(tmp_path)[-1]['step'] == 60


# What cannot be written.


def test_a_checkpoint_that_cannot_be_written_is_said(tmp_path, micro):
    (tmp_path / 'file').write_text('')
    with pytest.raises(UserError, match=r'could not be written to .*Not a directory.*no earlier checkpoint'):
        Checkpoints(tmp_path / 'file' / 'checkpoints', keep=1, metadata=CheckpointMetadata())
