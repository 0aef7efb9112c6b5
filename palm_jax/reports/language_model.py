"""What is left when a run ends: numbers, a picture, samples and the command that continues."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from palm_jax.inference.generate import Decoder
from palm_jax.reports.plots import plot_losses
from palm_jax.training.evaluate import bits_per_byte
from palm_jax.training.result import TrainingResult


@dataclasses.dataclass(frozen=True)
class TextReporter:
    """Measures a language model against its baselines when a run ends, and lets it write.

    Attributes:
      sampler: continues `prompts`; None does not.
      prompts: texts.
    """

    sampler: Decoder | None = None
    prompts: Sequence[str] = ()

    def __call__(self, finished: TrainingResult) -> TextReport:
        """Validates on the whole held-out part and samples."""
        data, metrics, samples = finished.data, finished.evaluate(), []
        if self.sampler and self.prompts:
            params = finished.state.all_params
            samples = self.sampler(finished.model, params, data.vocabulary, self.prompts, data.length)
        return TextReport(
            step=finished.step,
            seconds=finished.seconds,
            loss=metrics['loss'].value(),
            bits_per_byte=bits_per_byte(metrics, data.validation_bytes),
            baselines=data.baselines(finished.sequences_seen),
            samples=list(zip(self.prompts, samples, strict=True)) if samples else [],
            checkpoint=finished.checkpoint,
        )


@dataclasses.dataclass(frozen=True)
class TextReport:
    """The end of a run that trained a language model.

    Attributes:
      step: steps taken.
      seconds: this process trained and evaluated for so long.
      loss: validation cross-entropy in nats per token.
      bits_per_byte: of the held-out text.
      baselines: bits per byte of others on the same text, by name.
      samples: (prompt, continuation).
      checkpoint: where the final state lies.
    """

    step: int
    seconds: float
    loss: float
    bits_per_byte: float
    baselines: Mapping[str, float]
    samples: Sequence[tuple[str, str]]
    checkpoint: Path

    def values(self) -> dict[str, float]:
        """For the writers."""
        return {'loss': self.loss, 'bits_per_byte': self.bits_per_byte}

    def write(self, model_dir: Path) -> None:
        """summary.json, samples.txt and loss.png in MODEL_DIR."""
        summary = dataclasses.asdict(self) | {'checkpoint': str(self.checkpoint), 'perplexity': math.exp(self.loss)}
        (model_dir / 'summary.json').write_text(json.dumps(summary, indent=2) + '\n')
        (model_dir / 'samples.txt').write_text(self._samples())
        plot_losses(model_dir, 'cross-entropy (nats per token)')

    def text(self, model_dir: Path, continue_command: str) -> str:
        """What the terminal shows."""
        rows = [('this model', self.bits_per_byte), *self.baselines.items()]
        table = '\n'.join(f'    {name:<22} {bits:.3f}' for name, bits in sorted(rows, key=lambda row: row[1]))
        return (
            f'\n{self._samples()}\n'
            f'validation loss  {self.loss:.4f} nats a token, perplexity {math.exp(self.loss):.2f}\n'
            f'bits per byte on the same held-out text, lower is better:\n{table}\n'
            f'loss curve       {model_dir / "loss.png"}\n'
            f'samples          {model_dir / "samples.txt"}\n'
            f'configuration    {model_dir / "config.gin"}\n'
            f'checkpoint       {self.checkpoint}\n'
            f'continue with    {continue_command}'
        )

    def _samples(self) -> str:
        return ''.join(
            f'--- sample {i + 1}: the prompt up to ⟦, the model from there\n{prompt}⟦{continuation}\n'
            for i, (prompt, continuation) in enumerate(self.samples)
        )
