"""Directories to export to."""

import os
import stat

import pytest

from palm_jax.errors import UserError
from palm_jax.exchange import directories


def test_new_and_empty_directories_are_taken_and_others_refused(tmp_path):
    directories.prepare(tmp_path / 'a' / 'b')
    directories.prepare(tmp_path / 'a' / 'b')
    (tmp_path / 'a' / 'b' / 'file').touch()
    with pytest.raises(UserError, match=r'b is not empty\. Name another directory'):
        directories.check(tmp_path / 'a' / 'b')
    for name in ('file', 'file/inside/it'):
        with pytest.raises(UserError, match='file is a file, not a directory'):
            directories.prepare(tmp_path / 'a' / 'b' / name)


def test_a_directory_that_cannot_be_created_is_one_message(tmp_path):
    (tmp_path / 'link').symlink_to(tmp_path / 'link')
    for path in (tmp_path / 'link' / 'new', tmp_path / ('long' * 100)):
        with pytest.raises(UserError, match=r'cannot be created: .*Name another directory'):
            directories.prepare(path)


@pytest.mark.parametrize('umask', [0o022, 0o077, 0o002])
def test_files_get_the_mode_of_new_ones(tmp_path, umask):
    (tmp_path / 'deep').mkdir()
    files = [tmp_path / 'one', tmp_path / 'deep' / 'two']
    for file in files:
        file.touch(mode=0o600)
    before = os.umask(umask)
    try:
        directories.apply_umask(tmp_path)
    finally:
        os.umask(before)
    assert [stat.S_IMODE(file.stat().st_mode) for file in files] == [0o666 & ~umask] * 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ['deep', 'one']
