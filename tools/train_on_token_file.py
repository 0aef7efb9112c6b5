"""python -m tools.train_on_token_file --tokens=tokens.npy --model_dir=runs/suite --size=1b --steps=40

The trainer itself (`training.loop.train`: data, steps, checkpoints, metrics, resume) on a file of tokens that NumPy
reads, for machines that have jax, flax, optax and orbax alone. `tools/gpu_suite.py` runs it, kills it and continues it.
"""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from palm_jax.cli import command_line
from palm_jax.cli.parser import positive
from tools.shapes import SIZES, VOCABULARY, architecture


class TokenFile:
    """Sequences of a file of token ids, in an order that is a function of their number; see `interfaces.Data`.

    Args:
      path: file of int32 ids, as `numpy.save` writes it.
      length: tokens per sequence.
    """

    labels: Sequence[str] = ()
    group = None
    is_ready = True

    def __init__(self, path: Path, length: int):
        self.length, self._path = length, path
        self._tokens = np.load(path, mmap_mode='r')
        self.vocabulary = Ids()
        self.num_validation_sequences = 1
        self.num_sequences = len(self._tokens) // length - 1

    def prepare(self, run: Any) -> None:
        """Nothing is prepared."""

    def batch(self, first: int, size: int) -> Mapping[str, np.ndarray]:
        """Return training sequences by number."""
        rows = [self._row((first + number) * 7919 % self.num_sequences) for number in range(size)]
        return _features(np.stack(rows))

    def blank(self) -> Mapping[str, np.ndarray]:
        """Return an empty sequence."""
        return {name: np.zeros_like(x[0]) for name, x in self.batch(0, 1).items()}

    def validation(self, size: int) -> Iterator[Mapping[str, np.ndarray]]:
        """Iterate over the last sequence, which is held out, in one batch."""
        features = _features(np.repeat(self._row(self.num_sequences)[None], size, axis=0))
        features['decoder_loss_weights'][1:] = 0
        yield features

    def validation_by_length(self, size: int) -> Iterator[tuple[np.ndarray, Mapping[str, np.ndarray]]]:
        """Yield the same with the number of the sequence."""
        for features in self.validation(size):
            yield np.arange(1), features

    def describe(self) -> str:
        """Return the data in numbers."""
        return f'data       {self.num_sequences:,} sequences of {self.length:,} tokens in {self._path}'

    def identity(self) -> Mapping[str, Mapping[str, Any]]:
        """Return the number of tokens, and their digest."""
        return {'train': {'tokens': len(self._tokens), 'sha256': hashlib.sha256(self._tokens.tobytes()).hexdigest()}}

    def example(self) -> str:
        """Return the beginning of the first sequence."""
        return ' '.join(map(str, self._row(0)[:16]))

    def _row(self, number: int) -> np.ndarray:
        return np.asarray(self._tokens[number * self.length : (number + 1) * self.length])


class Ids:
    """A vocabulary whose tokens are numbers."""

    size = VOCABULARY
    fingerprint = f'{VOCABULARY} numbers'

    def save(self, directory: Path) -> None:
        """There is no file."""


class LossReporter:
    """Reports nothing but the loss; see `result.Reporter`."""

    def metric_names(self, data: Any) -> Sequence[str]:
        """There are no further metrics."""
        del data
        return ()

    def measure(self, inputs: Any) -> Any:
        """Refuse: only a run with a best metric asks."""
        raise NotImplementedError

    def __call__(self, result: Any) -> LossReporter:
        """Measure the loss."""
        self._loss = result.inputs.evaluate()['loss'].value()
        return self

    def values(self) -> dict[str, float]:
        """Return the loss."""
        return {'loss': self._loss}

    def write(self, model_dir: Path) -> None:
        """There are no files."""

    def text(self, model_dir: Path, continue_command: str) -> str:
        """Return the loss in words."""
        del continue_command
        return f'validation loss {self._loss:.4f} of {model_dir}'


def _features(tokens_BL: np.ndarray) -> dict[str, np.ndarray]:
    tokens_BL = tokens_BL.astype(np.int32)
    return {
        'decoder_input_tokens': np.pad(tokens_BL, [(0, 0), (1, 0)])[:, :-1],
        'decoder_target_tokens': tokens_BL,
        'decoder_loss_weights': np.ones_like(tokens_BL),
    }


def write_tokens(path: Path, num_tokens: int) -> None:
    """Write a file of random ids, unless it is there with this many."""
    if not path.exists() or len(np.load(path, mmap_mode='r')) != num_tokens:
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, np.random.default_rng(0).integers(3, VOCABULARY, num_tokens).astype(np.int32))


def main(arguments: Sequence[str]) -> int:
    """Train, or continue what the directory holds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--tokens', type=Path, required=True, help='file of int32 token ids, .npy')
    parser.add_argument('--model_dir', required=True, help='directory of the run, which is continued')
    parser.add_argument('--size', choices=SIZES, default='1b')
    parser.add_argument('--batch', type=positive, default=8)
    parser.add_argument('--length', type=positive, default=2048)
    parser.add_argument('--dtype', choices=('float32', 'bfloat16'), default='bfloat16')
    parser.add_argument('--steps', type=positive, default=40)
    parser.add_argument('--save_every', type=positive, default=1000, help='steps between checkpoints')
    options = parser.parse_args(arguments)

    from palm_jax.models.palm import PaLM
    from palm_jax.training import loop, optimizers, schedules
    from palm_jax.training.run import Periods, Run
    from palm_jax.training.writers import Jsonl

    return loop.train(
        model_dir=options.model_dir,
        model=PaLM(architecture(options)),
        data=TokenFile(options.tokens, options.length),
        optimizer=optimizers.adamw(schedules.constant(1e-4)),
        total_steps=options.steps,
        batch_size=options.batch,
        reporter=LossReporter(),
        periods=Periods(log=2, evaluate=10**6, checkpoint=options.save_every),
        writers=(Jsonl(),),
        run=Run(command='python -m tools.train_on_token_file'),
    )


if __name__ == '__main__':
    command_line.run(main)
