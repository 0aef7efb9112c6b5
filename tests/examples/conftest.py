"""Shared by the tests of the examples: whole runs in this process, at micro size."""

import pytest

from tests.support.examples import MICRO, run


@pytest.fixture(scope='session')
def text(tmp_path_factory):
    """A file of text to pretrain on."""
    path = tmp_path_factory.mktemp('examples') / 'text.txt'
    path.write_text('\n'.join(f'the square of {i} is {i * i}.' for i in range(1500)))
    return path


@pytest.fixture(scope='session')
def base(text):
    """The MODEL_DIR of a pretrained micro model."""
    folder = text.with_name('base')
    run('gin/pretrain_tiny.gin', folder, *MICRO, f'TRAIN_FILES={text}', 'TRAIN_STEPS=2', 'MAX_NEW_TOKENS=4')
    return folder
