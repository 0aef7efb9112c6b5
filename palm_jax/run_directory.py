"""The files of a run's MODEL_DIR, named in one place, and its checkpoints.

    MODEL_DIR/
      config.gin                  the configuration in effect, as one gin file
      lock                        the process that trains, while one does
      versions.json               versions of Python and the packages
      vocabulary.model | .json    the vocabulary (SentencePiece | Hugging Face tokenizers); none for bytes
      checkpoints/<step>/         the newest checkpoints, each with its checksums, config.gin and the vocabulary
      best/<step>/                the best checkpoint by BEST_METRIC
      metrics.jsonl, tensorboard/, wandb_id
      skipped.json                batches skipped after loss spikes
      summary.json, report.md, report.html, loss.png, predictions.jsonl, samples.txt    the final report
      eval.json                   the last evaluation by `palm-jax eval`
      seeds.json, seed_<n>/       one MODEL_DIR per seed, and a summary over them

A checkpoint is a folder named after its step, with the arrays in `state/` and its description beside them
(`checkpoint_metadata`). Importing this module loads the standard library only.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import os
from pathlib import Path

from palm_jax import checkpoint_metadata
from palm_jax.errors import UserError

_LOGGER = logging.getLogger(__name__)

STATE = 'state'  # the folder of a checkpoint's arrays
_HOW_TO_MAKE_ONE = 'Make one with: palm-jax train --gin_file=gin/pretrain_tiny.gin'


@dataclasses.dataclass(frozen=True)
class RunDirectory:
    """Paths of what a run leaves behind; none of them needs to exist.

    Attributes:
      path: MODEL_DIR; a string is converted.
    """

    path: Path

    def __post_init__(self) -> None:
        object.__setattr__(self, 'path', Path(self.path))

    @classmethod
    def of_checkpoint(cls, checkpoint: Path) -> RunDirectory:
        """The run that a checkpoint (a step's folder) belongs to."""
        return cls(checkpoint.parents[1])

    def __str__(self) -> str:
        return str(self.path)

    @property
    def config(self) -> Path:
        """The configuration in effect, as one gin file."""
        return self.path / 'config.gin'

    @property
    def lock(self) -> Path:
        """The lock of the process that writes to the directory; see `locks`."""
        return self.path / 'lock'

    @property
    def versions(self) -> Path:
        """Versions of Python, the packages and the commit."""
        return self.path / 'versions.json'

    @property
    def sentencepiece_vocabulary(self) -> Path:
        """The vocabulary, where it is a SentencePiece model."""
        return self.path / 'vocabulary.model'

    @property
    def tokenizers_vocabulary(self) -> Path:
        """The vocabulary, where it is a Hugging Face tokenizer."""
        return self.path / 'vocabulary.json'

    @property
    def vocabulary(self) -> Path | None:
        """The vocabulary's file; None where there is none, as for bytes."""
        files = (self.sentencepiece_vocabulary, self.tokenizers_vocabulary)
        return next((file for file in files if file.is_file()), None)

    @property
    def checkpoints(self) -> Path:
        """The folder of the newest checkpoints."""
        return self.path / 'checkpoints'

    @property
    def best_checkpoints(self) -> Path:
        """The folder of the best checkpoint."""
        return self.path / 'best'

    @property
    def metrics(self) -> Path:
        """Logged metrics, a JSON object per line."""
        return self.path / 'metrics.jsonl'

    @property
    def tensorboard(self) -> Path:
        """The folder of TensorBoard's event files."""
        return self.path / 'tensorboard'

    @property
    def wandb_id(self) -> Path:
        """The run's id at Weights & Biases."""
        return self.path / 'wandb_id'

    @property
    def skipped_batches(self) -> Path:
        """The batches that were skipped after loss spikes."""
        return self.path / 'skipped.json'

    @property
    def summary(self) -> Path:
        """The final report's numbers."""
        return self.path / 'summary.json'

    @property
    def markdown_report(self) -> Path:
        """The final report as Markdown."""
        return self.path / 'report.md'

    @property
    def html_report(self) -> Path:
        """The final report as a web page."""
        return self.path / 'report.html'

    @property
    def loss_plot(self) -> Path:
        """Training and validation loss by step."""
        return self.path / 'loss.png'

    @property
    def predictions(self) -> Path:
        """Predictions for the validation examples, a JSON object per line."""
        return self.path / 'predictions.jsonl'

    @property
    def samples(self) -> Path:
        """Generated samples."""
        return self.path / 'samples.txt'

    @property
    def evaluation(self) -> Path:
        """The results of `palm-jax eval`."""
        return self.path / 'eval.json'

    @property
    def seeds(self) -> Path:
        """The summary over several seeds."""
        return self.path / 'seeds.json'

    def seed(self, seed: int) -> RunDirectory:
        """The run with one of several seeds."""
        return RunDirectory(self.path / f'seed_{seed}')

    def checkpoint(self, step: int) -> Path:
        """The checkpoint of a step."""
        return self.checkpoints / str(step)

    @property
    def is_begun(self) -> bool:
        """Whether a run has left a checkpoint or metrics; one that was refused has not."""
        return any(self.checkpoints.glob('[0-9]*')) or (self.metrics.is_file() and self.metrics.stat().st_size > 0)

    def steps(self) -> list[int]:
        """The steps that have a checkpoint, in ascending order."""
        return steps_in(self.checkpoints)

    def latest(self) -> Path | None:
        """The newest checkpoint, or None."""
        steps = self.steps()
        return self.checkpoint(steps[-1]) if steps else None

    def interrupted_at(self, total_steps: int) -> int | None:
        """The last step of a run that was interrupted; None of one that has ended, also early, or was not trained here.

        Args:
          total_steps: number of steps of the run.
        """
        steps = self.steps()
        if not steps or steps[-1] >= total_steps or not self.metrics.is_file():
            return None
        if not self.summary.is_file():
            return steps[-1]
        reported = json.loads(self.summary.read_bytes()).get('step', steps[-1])
        return steps[-1] if reported < steps[-1] and self.best() is None else None  # a finished one was continued

    def best(self) -> Path | None:
        """The best checkpoint by BEST_METRIC; None where the run kept none."""
        steps = steps_in(self.best_checkpoints)
        return self.best_checkpoints / str(steps[-1]) if steps else None


def steps_in(folder: Path) -> list[int]:
    """The steps of the finished checkpoints in a folder, in ascending order; none if the folder does not exist."""
    return sorted(int(path.name) for path in numbered(folder) if is_checkpoint(path))


def numbered(folder: Path) -> list[Path]:
    """The folders in a folder that are named like the checkpoint of a step, in ascending order."""
    found = [path for path in folder.glob('*') if path.name.isascii() and path.name.isdecimal() and path.is_dir()]
    return sorted((path for path in found if str(int(path.name)) == path.name), key=lambda path: int(path.name))


def is_checkpoint(path: Path) -> bool:
    """Whether a path is the folder of a finished checkpoint."""
    return path.name.isdecimal() and (path / STATE).is_dir() and checkpoint_metadata.is_finished(path)


def is_of_checkpoint(path: Path) -> bool:
    """Whether a folder holds anything of a checkpoint, finished or not; other folders are the user's."""
    is_empty = not any(path.iterdir())
    has_seal = any(path.glob(checkpoint_metadata.seal_file(path, '*').name))
    return is_empty or has_seal or (path / STATE).exists() or checkpoint_metadata.metadata_folder(path) is not None


def write_whole(path: Path, content: str | bytes) -> None:
    """Write a file so that it has either its former or its new content, whatever interrupts."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f'{path.name}.unfinished')
    with beside.open('wb') as file:
        file.write(content.encode() if isinstance(content, str) else content)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)


def repair_files(run: RunDirectory) -> None:
    """Write the configuration and the vocabulary of a run again where a crash has cut them short, or they are gone.

    Every checkpoint keeps both. A file that was changed in another way is left as it is.
    """
    checkpoint = run.latest() or run.best()
    if checkpoint is None:
        return
    for path in (run.config, run.sentencepiece_vocabulary, run.tokenizers_vocabulary):
        kept = _read_intact(checkpoint, path.name)
        if kept is not None and _is_cut(path, kept):
            write_whole(path, kept)
            _LOGGER.warning('%s was incomplete or missing and has been restored from %s', path, checkpoint)


def whole_file(path: Path, checkpoint: Path) -> Path:
    """A file of a run, or the copy that a checkpoint keeps where the file is cut short or missing."""
    kept = _read_intact(checkpoint, path.name)
    return checkpoint / path.name if kept is not None and _is_cut(path, kept) else path


def _read_intact(checkpoint: Path, name: str) -> bytes | None:
    """The content of a file that a checkpoint keeps; None if it keeps none, or its checksum differs."""
    try:
        content = (checkpoint / name).read_bytes()
        checksums = [seal.files.get(name) for seal in checkpoint_metadata.read_seals(checkpoint)]
    except (OSError, UserError):
        return None
    return content if hashlib.sha256(content).hexdigest() in checksums else None


def _is_cut(path: Path, whole: bytes) -> bool:
    """Whether a file is missing, ends early, or ends in zeros, which file systems leave after a power failure."""
    if not path.is_file():
        return not path.exists()
    content = path.read_bytes()
    return content != whole and whole.startswith(content.rstrip(b'\0'))


def find_checkpoint(path: str | Path | None, binding: str = 'INITIAL_CHECKPOINT_PATH') -> Path:
    """The checkpoint that a user's path means.

    Args:
      path: a checkpoint; or a MODEL_DIR, which means its best checkpoint where the run kept one, else its newest;
        or a folder of checkpoints, which means its newest.
      binding: name of the setting that holds the path, for messages.

    Raises:
      UserError: there is no checkpoint.
    """
    if path is None:
        raise UserError(f'Name the model to start from: --gin.{binding}=runs/tiny. {_HOW_TO_MAKE_ONE}')
    run = RunDirectory(Path(path).expanduser())
    if is_checkpoint(run.path):
        return run.path
    inside = steps_in(run.path)
    found = run.path / str(inside[-1]) if inside else run.best() or run.latest()
    if found is not None:
        _warn_of_unfinished(found)
        return found
    if run.path.name.isdecimal() and (run.path / STATE).is_dir():
        raise UserError(f'{binding} = {str(path)!r} is an unfinished checkpoint: it was not written to its end.')
    siblings = steps_in(run.path.parent)
    advice = f'Its folder holds the steps {", ".join(map(str, siblings))}.' if siblings else _HOW_TO_MAKE_ONE
    raise UserError(f'{binding} = {str(path)!r} is not a checkpoint, nor a MODEL_DIR that holds one. {advice}')


def _warn_of_unfinished(found: Path) -> None:
    """Warn of newer checkpoints than the one that is used, which were not written to their end."""
    for path in numbered(found.parent):
        if int(path.name) > int(found.name) and (path / STATE).is_dir():
            _LOGGER.warning('%s was not written to its end; %s is used', path, found)
