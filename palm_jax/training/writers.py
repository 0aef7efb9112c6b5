"""Where metrics go: a JSONL file, TensorBoard, Weights & Biases."""

from __future__ import annotations

import json
import uuid
from pathlib import Path
from typing import Any, Protocol

from palm_jax.errors import UserError
from palm_jax.run_directory import RunDirectory


class Writer(Protocol):
    """Takes metrics of a step and writes them somewhere."""

    def open(self, model_dir: Path, first_step: int, config: str) -> None:
        """Begins at `first_step`: what an interrupted run wrote beyond it is dropped."""

    def write(self, step: int, values: dict[str, float]) -> None:
        """Scalars by name; names read `train/loss`."""

    def close(self) -> None:
        """Flushes."""


class Jsonl:
    """MODEL_DIR/metrics.jsonl, a line a report: {"step": 100, "train/loss": ...}."""

    def open(self, model_dir: Path, first_step: int, config: str) -> None:
        """Keeps the lines up to `first_step`."""
        path = RunDirectory(model_dir).metrics
        kept = [record for record in read_jsonl(path) if record['step'] <= first_step]
        unfinished = path.with_suffix('.unfinished')
        unfinished.write_text(''.join(json.dumps(record) + '\n' for record in kept))
        unfinished.replace(path)
        self._file = path.open('a', buffering=1)

    def write(self, step: int, values: dict[str, float]) -> None:
        """One line."""
        self._file.write(json.dumps({'step': step, **values}) + '\n')

    def close(self) -> None:
        """Closes the file."""
        self._file.close()


class TensorBoard:
    """MODEL_DIR/tensorboard; needs no TensorFlow."""

    def open(self, model_dir: Path, first_step: int, config: str) -> None:
        """Purges what an interrupted run wrote beyond `first_step`."""
        from tensorboardX import SummaryWriter

        self._writer = SummaryWriter(str(RunDirectory(model_dir).tensorboard), purge_step=first_step + 1)
        self._writer.add_text('config', f'```\n{config}\n```', first_step)

    def write(self, step: int, values: dict[str, float]) -> None:
        """A scalar a name."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Flushes."""
        self._writer.close()


class WeightsAndBiases:
    """A run on wandb.ai, or below MODEL_DIR with `mode = 'offline'`.

    Args:
      project: its name there.
      mode: `online` or `offline` (upload later with `wandb sync`).
    """

    def __init__(self, project: str = 'palm_jax', mode: str = 'online'):
        self._project, self._mode = project, mode

    def open(self, model_dir: Path, first_step: int, config: str) -> None:
        """Continues the directory's run, if there is one."""
        try:
            import wandb
        except ImportError as error:
            raise UserError('Weights & Biases is not installed: pip install "palm_jax[wandb]"') from error
        id_file = RunDirectory(model_dir).wandb_id
        if not id_file.exists():
            id_file.write_text(uuid.uuid4().hex[:12])
        self._run = wandb.init(
            project=self._project,
            mode=self._mode,
            dir=str(model_dir),
            id=id_file.read_text(),
            resume='allow',
            name=model_dir.name,
            config={'gin': config},
        )

    def write(self, step: int, values: dict[str, Any]) -> None:
        """One call to `log`."""
        self._run.log(values, step=step)

    def close(self) -> None:
        """Finishes the run."""
        self._run.finish()


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """The records of a metrics file; a last line cut short by a crash is left out."""
    if not path.exists():
        return []
    records = []
    for line in path.read_text().splitlines():
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return records
