"""What checkpoints depend on has not moved: parameter trees and optimizer states against tests/goldens."""

import json

import pytest

from tests.support import goldens


@pytest.fixture(scope='module')
def trees():
    """The trees of the code as it is; built once, by shapes alone."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(goldens.ROOT)
        return goldens.trees()


def test_every_golden_is_one_that_the_code_still_makes(trees):
    kept = {path.relative_to(goldens.DIRECTORY).as_posix() for path in goldens.DIRECTORY.rglob('*.json')}
    assert kept == {f'{name}.json' for name in trees}


@pytest.mark.parametrize(
    'name',
    sorted(p.relative_to(goldens.DIRECTORY).with_suffix('').as_posix() for p in goldens.DIRECTORY.rglob('*.json')),
)
def test_paths_shapes_dtypes_and_axes_are_those_of_the_golden(trees, name):
    expected = json.loads((goldens.DIRECTORY / f'{name}.json').read_text())
    now = trees[name]
    changes = [
        f'{path}: {expected.get(path, "absent")} in the golden, {now.get(path, "absent")} now'
        for path in sorted(expected.keys() | now.keys())
        if expected.get(path) != now.get(path)
    ]
    assert not changes, (
        f'tests/goldens/parameters/{name}.json differs, so checkpoints written before this change no longer open:\n  '
        + '\n  '.join(changes)
        + '\nIf that is meant, regenerate the goldens with `python -m tests.support.goldens` and say so.'
    )
