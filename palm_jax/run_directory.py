"""The files of a run's MODEL_DIR, named in one place, and its checkpoints.

    MODEL_DIR/
      config.gin                  the configuration in effect, as one gin file
      lock                        the process that trains, while one does
      versions.json               versions of Python and the packages
      vocabulary.model | .json    the vocabulary (SentencePiece | Hugging Face tokenizers); none for bytes
      checkpoints/<step>/         the newest checkpoints
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
from pathlib import Path

from palm_jax.errors import UserError

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

    def steps(self) -> list[int]:
        """The steps that have a checkpoint, in ascending order."""
        return steps_in(self.checkpoints)

    def latest(self) -> Path | None:
        """The newest checkpoint, or None."""
        steps = self.steps()
        return self.checkpoint(steps[-1]) if steps else None

    def best(self) -> Path | None:
        """The best checkpoint by BEST_METRIC; None where the run kept none."""
        steps = steps_in(self.best_checkpoints)
        return self.best_checkpoints / str(steps[-1]) if steps else None


def steps_in(folder: Path) -> list[int]:
    """The steps of the finished checkpoints in a folder, in ascending order; none if the folder does not exist."""
    return sorted(int(path.name) for path in folder.glob('*') if is_checkpoint(path))


def is_checkpoint(path: Path) -> bool:
    """Whether a path is the folder of a finished checkpoint."""
    return path.name.isdecimal() and (path / STATE).is_dir()


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
        return found
    siblings = steps_in(run.path.parent)
    advice = f'Its folder holds the steps {", ".join(map(str, siblings))}.' if siblings else _HOW_TO_MAKE_ONE
    raise UserError(f'{binding} = {str(path)!r} is not a checkpoint, nor a MODEL_DIR that holds one. {advice}')
