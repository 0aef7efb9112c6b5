"""Style, spelling and types: the same commands as `.pre-commit-config.yaml`."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize(
    'command',
    [
        ('ruff', 'check'),
        ('ruff', 'format', '--check'),
        ('mypy', '--cache-dir=.pytest_cache/mypy'),
        ('codespell_lib', 'palm_jax', 'tests', 'tools', 'examples', 'gin', 'docs', 'README.md', 'CONTRIBUTING.md'),
    ],
    ids=lambda command: '-'.join(command[:2]),
)
def test_the_tree_is_clean(command):
    result = subprocess.run([sys.executable, '-m', *command], cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, (result.stdout + result.stderr)[-4000:]
