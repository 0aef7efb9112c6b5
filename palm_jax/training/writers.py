"""Metric writers: a JSONL file, TensorBoard, Weights & Biases."""

from __future__ import annotations

import json
import logging
import math
import uuid
from pathlib import Path
from typing import Any, Literal, Protocol

from palm_jax.errors import UserError
from palm_jax.run_directory import RunDirectory, write_whole

_LOGGER = logging.getLogger(__name__)


class Writer(Protocol):
    """Writes the metrics of steps."""

    def open(self, model_dir: Path, first_step: int, config: str) -> None:
        """Begin at a step; what an interrupted run wrote for later steps is dropped.

        Args:
          model_dir: directory of the run.
          first_step: step at which the run begins or continues.
          config: gin text of the run, for the record.
        """

    def write(self, step: int, values: dict[str, float]) -> None:
        """Write scalars of a step by name; names read `train/loss`."""

    def close(self) -> None:
        """Flush and close."""


class Jsonl:
    """Writes MODEL_DIR/metrics.jsonl, one line per call: {"step": 100, "train/loss": ...}."""

    def open(self, model_dir: Path, first_step: int, config: str) -> None:
        """Open the file, and keep its lines up to `first_step`."""
        path = RunDirectory(model_dir).metrics
        kept = [record for record in read_jsonl(path) if record['step'] <= first_step]
        write_whole(path, ''.join(json.dumps(record) + '\n' for record in kept))
        self._file = path.open('a', buffering=1, encoding='utf-8')

    def write(self, step: int, values: dict[str, float]) -> None:
        """Write one line."""
        self._file.write(json.dumps({'step': step, **values}) + '\n')

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class TensorBoard:
    """Writes MODEL_DIR/tensorboard, without TensorFlow."""

    def open(self, model_dir: Path, first_step: int, config: str) -> None:
        """Open the directory, and purge what was written for later steps than `first_step`."""
        from tensorboardX import SummaryWriter

        self._writer = SummaryWriter(str(RunDirectory(model_dir).tensorboard), purge_step=first_step + 1)
        self._writer.add_text('config', f'```\n{config}\n```', first_step)

    def write(self, step: int, values: dict[str, float]) -> None:
        """Write one scalar per name; what is not defined, such as the area under the ROC of one class, has no point."""
        for name, value in values.items():
            if math.isfinite(value):
                self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Flush and close."""
        self._writer.close()


class WeightsAndBiases:
    """Logs a run on wandb.ai, or below MODEL_DIR with `mode = 'offline'`.

    Args:
      project: name of the project on wandb.ai.
      mode: `online`, `offline` to upload later with `wandb sync`, `shared` or `disabled`; see `wandb.init`.
    """

    def __init__(self, project: str = 'palm_jax', mode: Literal['online', 'offline', 'shared', 'disabled'] = 'online'):
        self._project, self._mode = project, mode

    def open(self, model_dir: Path, first_step: int, config: str) -> None:
        """Start a run, or continue the directory's run if there is one."""
        try:
            import wandb
        except ImportError as error:
            raise UserError('Weights & Biases is not installed: pip install "palm_jax[wandb]"') from error
        id_file = RunDirectory(model_dir).wandb_id
        if not id_file.exists():
            write_whole(id_file, uuid.uuid4().hex[:12])
        self._run = wandb.init(
            project=self._project,
            mode=self._mode,
            dir=str(model_dir),
            id=id_file.read_text(encoding='utf-8'),
            resume='allow',
            name=model_dir.name,
            config={'gin': config},
        )

    def write(self, step: int, values: dict[str, Any]) -> None:
        """Log one step."""
        self._run.log(values, step=step)

    def close(self) -> None:
        """Finish the run."""
        self._run.finish()


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """Return the records of a metrics file, without lines that cannot be read; a crash may cut the last one short."""
    if not path.exists():
        return []
    *lines, last = map(_read_record, path.read_text(errors='replace', encoding='utf-8').split('\n'))
    if damaged := [number for number, record in enumerate(lines, 1) if record is None]:
        _LOGGER.warning('%s: %d lines are damaged and left out, the first is line %d', path, len(damaged), damaged[0])
    return [record for record in (*lines, last) if record is not None]


def _read_record(line: str) -> dict[str, Any] | None:
    """Return the record of a line; None if it is none."""
    try:
        record = json.loads(line)
    except ValueError:
        return None
    return record if isinstance(record, dict) and isinstance(record.get('step'), int) else None
