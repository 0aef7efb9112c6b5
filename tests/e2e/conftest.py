"""Texts, tables and trained bases that whole runs share."""

import pytest

from tests.support.once import made_once
from tests.support.runs import finetune, run


def write_squares(path):
    path.write_text('\n'.join(f'the square of {i} is {i * i}.' for i in range(1500)))
    return path


@pytest.fixture(scope='session')
def text(tmp_path_factory):
    """A file of text."""
    return made_once(tmp_path_factory, 'squares', lambda folder: write_squares(folder / 'text.txt')) / 'text.txt'


@pytest.fixture(scope='session')
def made(tmp_path_factory):
    """A folder with two bases, `base` and `other`, and tables to fine-tune them on; all tests read it."""

    def make(folder):
        squares = write_squares(folder / 'text.txt')
        for name, seed in (('base', 0), ('other', 1)):
            result = run(squares, folder / name, '--gin.TRAIN_STEPS=2', f'--gin.SEED={seed}')
            assert result.returncode == 0, result.stderr[-3000:]
        rows = [
            (f'number {i} is {"even" if i % 2 == 0 else "odd"}', 'yes' if i % 2 == 0 else 'no', i) for i in range(300)
        ]
        for name, label in (
            ('classes', lambda yes, i: yes),
            ('numbers', lambda yes, i: i / 300),
            ('many', lambda yes, i: f'{yes}{"|small" if i < 99 else ""}'),
        ):
            lines = ['text,label', *(f'"{text}",{label(yes, i)}' for text, yes, i in rows)]
            (folder / f'{name}.csv').write_text('\n'.join(lines) + '\n')

    return made_once(tmp_path_factory, 'bases', make)


@pytest.fixture(scope='session')
def classifier(made, tmp_path_factory):
    """The MODEL_DIR of a classifier after three steps, on the base of `made`; all tests read it."""

    def make(folder):
        result = finetune(made, folder / 'run', steps=3)
        assert result.returncode == 0, result.stderr[-3000:]

    return made_once(tmp_path_factory, 'classifier', make) / 'run'
