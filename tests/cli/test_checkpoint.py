"""What is in checkpoints, compared, converted, averaged; what is written is a base to start from."""

import jax
import numpy as np
import pytest

from palm_jax.checkpoint_metadata import CheckpointMetadata
from palm_jax.cli import checkpoint
from palm_jax.errors import UserError
from palm_jax.training import optimizers, schedules, state
from palm_jax.training.checkpoints import Checkpoints
from palm_jax.training.initial_parameters import restore_params

METADATA = CheckpointMetadata(vocabulary='bytes')


@pytest.fixture
def runs(tmp_path, micro):
    """Two runs whose parameters differ."""
    found = []
    for seed in (0, 1):
        _, params = micro(seed)
        optimizer = optimizers.adafactor(schedules.constant(1e-2))
        checkpoints = Checkpoints(tmp_path / str(seed) / 'checkpoints', keep=2, metadata=METADATA)
        current = state.TrainState(jax.numpy.asarray(3), params, optimizer.init(params))
        for step in (2, 3):
            checkpoints.save(current, step)
        checkpoints.close()
        found.append(params)
    return tmp_path, found


def shown(capsys, *arguments):
    assert checkpoint.main([str(a) for a in arguments]) == 0
    return capsys.readouterr().out


def test_what_is_there(runs, capsys):
    folder, _ = runs
    listing = shown(capsys, 'ls', folder / '0').splitlines()
    assert len(listing) == 2 and all('checksums match' in line and 'vocabulary bytes' in line for line in listing)
    table = shown(capsys, 'show', folder / '0')
    assert table.startswith(f'{folder}/0/checkpoints/3: ') and 'params/stack/attn/qkv/k  ' in table
    path = next((folder / '0' / 'checkpoints' / '3' / 'state').rglob('d/*'))
    path.write_bytes(path.read_bytes()[:-3])
    assert 'is damaged' in shown(capsys, 'ls', folder / '0')
    with pytest.raises(UserError, match=r'cannot be used: .*The checkpoint before it is .*checkpoints/2'):
        checkpoint.main(['show', str(folder / '0')])
    with pytest.raises(UserError, match='holds no checkpoint'):
        checkpoint.main(['ls', str(folder / 'none')])


def test_two_compared(runs, capsys):
    folder, _ = runs
    same = shown(capsys, 'diff', folder / '0' / 'checkpoints' / '2', folder / '0' / 'checkpoints' / '3')
    assert len(same.splitlines()) == 1 and 'are bit-for-bit identical' in same
    other = shown(capsys, 'diff', folder / '0', folder / '1')
    assert '~ params/stack/attn/qkv/q: differs by at most' in other
    assert '- opt_state' in shown(capsys, 'diff', folder / '0', _converted(folder, capsys))


def _converted(folder, capsys):
    shown(capsys, 'convert', folder / '0', folder / 'half')
    return folder / 'half'


def test_converted_and_averaged_checkpoints_are_bases(runs, capsys):
    folder, (zero, one) = runs
    half = restore_params(str(_converted(folder, capsys)), zero, METADATA)
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a, b.astype('bfloat16').astype('float32')), half, zero)
    shown(capsys, 'average', folder / '0', folder / '1', folder / 'mean')
    mean = restore_params(str(folder / 'mean'), zero, METADATA)
    jax.tree.map(lambda m, a, b: np.testing.assert_allclose(m, (a + b) / 2, rtol=1e-6, atol=1e-7), mean, zero, one)
    earlier_first = shown(capsys, 'average', folder / '0' / 'checkpoints' / '2', folder / '1', folder / 'of_two_steps')
    assert earlier_first.split() == ['checkpoint', str(folder / 'of_two_steps' / 'checkpoints' / '3')]
    with pytest.raises(UserError, match='exists; name another folder'):
        checkpoint.main(['average', str(folder / '0'), str(folder / 'mean')])
