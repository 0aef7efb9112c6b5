"""The end of a run whose objective predicts what was hidden: its loss beside what a constant reaches, and examples."""

from __future__ import annotations

import collections
import dataclasses
import json
import math
from collections.abc import Iterable, Sequence
from pathlib import Path

import jax
import numpy as np

from palm_jax.reports.plots import plot_losses
from palm_jax.training.result import TrainingResult


@dataclasses.dataclass(frozen=True)
class DenoisingReporter:
    """Measures a denoising model on the held-out part and shows what it makes of some of it.

    Attributes:
      examples: so many are shown.
    """

    examples: int = 3

    def __call__(self, finished: TrainingResult) -> DenoisingReport:
        """Validates on the whole held-out part; looks at it once more for the best constant."""
        metrics = {name: ratio.value() for name, ratio in finished.evaluate().items()}
        batch = next(iter(finished.data.validation(max(1, self.examples))))
        return DenoisingReport(
            step=finished.step,
            seconds=finished.seconds,
            metrics=metrics,
            best_constant=best_constant(finished.data.validation(finished.batch_size)),
            examples=_examples(finished, batch)[: self.examples],
            checkpoint=finished.checkpoint,
        )


@dataclasses.dataclass(frozen=True)
class DenoisingReport:
    """What such a run came to.

    Attributes:
      step: steps taken.
      seconds: this process trained and evaluated for so long.
      metrics: of the held-out part; `loss` in nats a target.
      best_constant: the loss of the one distribution that is best for all held-out targets.
      examples: what was read, what was hidden, what the model took it for.
      checkpoint: where the final state lies.
    """

    step: int
    seconds: float
    metrics: dict[str, float]
    best_constant: float
    examples: Sequence[tuple[str, str, str]]
    checkpoint: Path

    def values(self) -> dict[str, float]:
        """For the writers."""
        return self.metrics

    def write(self, model_dir: Path) -> None:
        """summary.json, samples.txt and loss.png in MODEL_DIR."""
        summary = dataclasses.asdict(self) | self.metrics | {'checkpoint': str(self.checkpoint)}
        (model_dir / 'summary.json').write_text(json.dumps(summary, indent=2, ensure_ascii=False) + '\n')
        (model_dir / 'samples.txt').write_text(self._shown())
        plot_losses(model_dir, 'cross-entropy (nats per target)')

    def text(self, model_dir: Path, continue_command: str) -> str:
        """What the terminal shows."""
        others = [(name, value) for name, value in self.metrics.items() if name.startswith('label_')]
        return '\n'.join(
            (
                f'\n{self._shown()}',
                f'validation loss  {self.metrics["loss"]:.4f} nats a target, {self.metrics["accuracy"]:.1%} right',
                f'best constant    {self.best_constant:.4f}: always the held-out targets by their frequency',
                *(f'{name.replace("_", " "):<16} {value:.4f}' for name, value in others),
                f'loss curve       {model_dir / "loss.png"}',
                f'examples         {model_dir / "samples.txt"}',
                f'configuration    {model_dir / "config.gin"}',
                f'checkpoint       {self.checkpoint}',
                f'continue with    {continue_command}',
            )
        )

    def _shown(self) -> str:
        return ''.join(
            f'--- example {number}\nread   {read!r}\nhidden {hidden!r}\nmodel  {guess!r}\n'
            for number, (read, hidden, guess) in enumerate(self.examples, 1)
        )


def best_constant(batches: Iterable[dict[str, np.ndarray]]) -> float:
    """The entropy of the targets that count, in nats: no constant prediction has a lower loss on them."""
    counts: collections.Counter[int] = collections.Counter()
    for batch in batches:
        counts.update(batch['decoder_target_tokens'][batch['decoder_loss_weights'] > 0].tolist())
    total = sum(counts.values())
    return -sum(count / total * math.log(count / total) for count in counts.values())


def _examples(finished: TrainingResult, batch: dict[str, np.ndarray]) -> list[tuple[str, str, str]]:
    """What was read before or around the targets, the targets, and the likeliest token in the place of each."""
    names = ('input_tokens', 'positions', 'segment_ids', 'causal_attention')
    inputs = [batch.get(f'decoder_{name}') for name in names]
    logits = jax.jit(finished.model.apply)({'params': finished.state.all_params}, *inputs)
    likeliest, decode = np.asarray(logits.argmax(axis=-1)), finished.data.vocabulary.decode
    shown = []
    for row in range(len(likeliest)):
        learned = batch['decoder_loss_weights'][row] > 0
        in_place = batch['decoder_causal_attention'][row][learned].all()  # else targets stand behind what is read
        read = batch['decoder_input_tokens'][row] if in_place else batch['decoder_target_tokens'][row][~learned]
        hidden = batch['decoder_target_tokens'][row][learned]
        shown.append((decode(read), decode(hidden), decode(likeliest[row][learned])))
    return shown
