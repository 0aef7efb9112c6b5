"""The report of a language model: its loss beside baselines, and samples."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from palm_jax.errors import UserError
from palm_jax.inference.generate import Decoder, encode_prompts, start_ids
from palm_jax.metrics.baselines import bits_per_byte
from palm_jax.metrics.text_baselines import Baseline
from palm_jax.reports.report import Measurements, RunReporter, warn_if_beaten
from palm_jax.training.result import EvaluationInput


@dataclasses.dataclass(frozen=True)
class TextReporter(RunReporter):
    """Measures a language model against baselines on the held-out text, and continues prompts with it.

    Attributes:
      sampler: decoding of the continuations; None generates none.
      prompts: texts to continue; None takes beginnings of held-out documents.
    """

    sampler: Decoder | None = None
    prompts: Sequence[str] | None = None

    def metric_names(self, data: Any) -> Collection[str]:
        """Return the only metric besides those of the loss."""
        del data
        return ('bits_per_byte',)

    def check(self, data: Any) -> None:
        """Refuse a prompt that leaves no room for a continuation."""
        if self.sampler and self.prompts:
            try:
                encode_prompts(data.vocabulary, self.prompts, data.length)
            except UserError as error:
                raise UserError(f'PROMPTS: {error}') from None

    def measure(self, inputs: EvaluationInput) -> Measurements:
        """Evaluate on the whole held-out part, and generate samples."""
        data, metrics, samples = inputs.data, inputs.evaluate(), []
        prompts = data.beginnings() if self.sampler and self.prompts is None else self.prompts
        if self.sampler and prompts:
            texts = self.sampler(inputs.model, inputs.params, data.vocabulary, prompts, data.length)
            samples = list(zip(prompts, texts, strict=True))
        nats = float(metrics['loss'].total)
        if not start_ids(data.vocabulary):  # the first token of a sequence is not predicted; it counts as the others do
            nats *= data.num_validation_tokens / float(metrics['loss'].count)
        return measurements(
            loss=metrics['loss'].value(),
            bits=bits_per_byte(nats, data.validation_bytes),
            baselines=data.baselines(inputs.sequences_seen),
            samples=samples,
        )


def measurements(
    loss: float, bits: float, baselines: Mapping[str, float], samples: Sequence[tuple[str, str]]
) -> Measurements:
    """The measurements of a language model.

    Args:
      loss: validation cross-entropy in nats per token.
      bits: bits per byte of the held-out text.
      baselines: bits per byte of gzip and of n-grams on the same text, by name.
      samples: (prompt, continuation) pairs.
    """
    perplexity = math.exp(loss)
    rows = sorted([('this model', bits), *baselines.items()], key=lambda row: row[1])
    shown = ''.join(
        f'--- sample {number}: the prompt up to ⟦, the model from there\n{prompt}⟦{continuation}\n'
        for number, (prompt, continuation) in enumerate(samples, 1)
    )
    return Measurements(
        metrics={'loss': loss, 'bits_per_byte': bits},
        details={'baselines': dict(baselines), 'samples': list(samples), 'perplexity': perplexity},
        text=shown,
        lines=[
            f'validation loss  {loss:.4f} nats per token, perplexity {perplexity:.2f}',
            'bits per byte on the same held-out text, lower is better:',
            *(f'    {name:<22} {value:.3f}' for name, value in rows),
        ],
        samples=shown,
        warnings=warn_if_beaten(
            {'bits_per_byte': bits},
            [Baseline(name, 'bits_per_byte', value, best=0.0) for name, value in baselines.items()],
        ),
        loss_unit='cross-entropy (nats per token)',
    )
