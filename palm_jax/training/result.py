"""A run at its end, as its reporter receives it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from jax.sharding import Mesh

from palm_jax.training.metrics import Metrics
from palm_jax.training.plan import Plan
from palm_jax.training.state import TrainState


@dataclasses.dataclass(frozen=True)
class TrainingResult:
    """What there is to report about.

    Attributes:
      model, state, data, mesh, plan: of the run.
      step: steps taken.
      seconds: this process trained for so long.
      batch_size: sequences a batch.
      sequences_seen: by all steps.
      evaluate: the metrics of the whole held-out part.
      checkpoint: where the final state lies.
    """

    model: Any
    state: TrainState
    data: Any
    mesh: Mesh
    plan: Plan
    step: int
    seconds: float
    batch_size: int
    sequences_seen: int
    evaluate: Callable[[], Metrics]
    checkpoint: Path


class Report(Protocol):
    """What a reporter makes of a finished run."""

    step: int

    def values(self) -> dict[str, float]:
        """Numbers for the writers."""

    def write(self, model_dir: Path) -> None:
        """Leaves files in MODEL_DIR."""

    def text(self, model_dir: Path, continue_command: str) -> str:
        """What the terminal shows."""
