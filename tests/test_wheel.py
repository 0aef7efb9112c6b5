"""A wheel carries the gin files and runs from anywhere."""

import subprocess
import sys
import zipfile

import pytest

from tests.support.paths import ROOT


@pytest.mark.slow
def test_a_wheel_carries_the_gin_files(tmp_path):
    command = [sys.executable, '-m', 'pip', 'wheel', '-q', '--no-deps', '-w', str(tmp_path), str(ROOT)]
    subprocess.run(command, check=True)
    (wheel,) = tmp_path.glob('*.whl')
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / 'site')
    expected = {p.relative_to(ROOT).as_posix() for p in (ROOT / 'gin').rglob('*.gin')}
    found = {p.relative_to(tmp_path / 'site' / 'palm_jax').as_posix() for p in (tmp_path / 'site').rglob('*.gin')}
    assert found == expected
    (tmp_path / 'elsewhere').mkdir()
    (tmp_path / 'elsewhere' / 'mine.gin').write_text("include 'gin/pretrain_tiny.gin'\nTRAIN_STEPS = 7\n")
    code = (
        'import sys; from palm_jax.configuration.load import load; '
        "print(load('loop.train', ['mine.gin'], []).build('loop.train')['total_steps'], load.__code__.co_filename)"
    )
    result = subprocess.run(
        [sys.executable, '-c', code],
        cwd=tmp_path / 'elsewhere',
        env={'PYTHONPATH': str(tmp_path / 'site'), 'PATH': '/usr/bin:/bin'},
        capture_output=True,
        text=True,
        check=True,
    )
    assert result.stdout.startswith('7 ') and 'site' in result.stdout
