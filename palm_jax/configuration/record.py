"""What MODEL_DIR keeps of the configuration, and the guard against running another one into it."""

from __future__ import annotations

import difflib
import importlib.metadata
import json
import platform
import subprocess
from collections.abc import Sequence
from pathlib import Path

from palm_jax.errors import UserError

PACKAGES = ('jax', 'jaxlib', 'flax', 'optax', 'orbax-checkpoint', 'gin-config', 'numpy', 'seqio', 'tensorflow', 'grain')
# Bindings that change how long or how visibly a run goes on, not what it is.
_MAY_CHANGE = (
    'MODEL_DIR', 'TRAIN_STEPS', 'WRITERS', 'PROMPTS',
    'LOG_PERIOD', 'EVAL_PERIOD', 'EVAL_BATCHES', 'CHECKPOINT_PERIOD', 'KEEP_CHECKPOINTS',
)  # fmt: skip


def keep(model_dir: Path, text: str, accept_changes: bool) -> None:
    """Writes config.gin and versions.json, or stops when the directory holds another run.

    Raises:
      UserError: with the difference, unless `accept_changes`.
    """
    path = model_dir / 'config.gin'
    if path.is_file() and _holds_run(model_dir) and not accept_changes:
        changes = difference(path.read_text(), text, _MAY_CHANGE)
        if changes:
            raise UserError(
                f'{model_dir} holds a run of another configuration:\n{changes}\n'
                'Take another directory with --gin.MODEL_DIR=..., or go on with the new one: --accept_changes'
            )
    try:
        model_dir.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        (model_dir / 'versions.json').write_text(json.dumps(versions(), indent=2) + '\n')
    except OSError as error:
        raise UserError(f'MODEL_DIR = {str(model_dir)!r} cannot be written: {error.strerror}.') from error


def _holds_run(model_dir: Path) -> bool:
    """Whether a run has left anything worth keeping; one that was refused has not."""
    metrics = model_dir / 'metrics.jsonl'
    return any((model_dir / 'checkpoints').glob('[0-9]*')) or (metrics.is_file() and metrics.stat().st_size > 0)


def difference(old: str, new: str, ignore: Sequence[str] = ()) -> str:
    """What differs between two gin texts; comments and bindings of `ignore` do not count."""

    def lines(text: str) -> list[str]:
        kept = [line for line in text.splitlines() if line.strip() and not line.startswith('#')]
        return [line for line in kept if line.split('=')[0].strip() not in ignore]

    changes = difflib.unified_diff(lines(old), lines(new), 'there', 'now', lineterm='', n=0)
    return '\n'.join(line for line in changes if not line.startswith('@@'))


def versions() -> dict[str, str]:
    """Python, the packages a run stands on, and the commit where there is one."""
    found = {'python': platform.python_version(), 'platform': platform.platform()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    command = ['git', '-C', str(Path(__file__).parent), 'describe', '--always', '--dirty', '--abbrev=12']
    try:
        commit = subprocess.run(command, capture_output=True, text=True, timeout=5, check=False).stdout.strip()
    except (OSError, subprocess.TimeoutExpired):
        commit = ''
    return found | ({'commit': commit} if commit else {})
