"""What training, inference and reports need of a model, with or without fine-tuning methods."""

from __future__ import annotations

from typing import Any, Protocol, Self

import flax.linen as nn

from palm_jax.models.architecture import Architecture


class Model(Protocol):
    """A PaLM, or a PaLM with fine-tuning methods attached (`peft.method.AdaptedModel`)."""

    @property
    def arch(self) -> Architecture:
        """The numbers that define the model."""

    @property
    def head(self) -> nn.Module | None:
        """The head that scores labels; None for a language model."""

    @property
    def has_dropout(self) -> bool:
        """Whether training needs a `dropout` RNG."""

    def init(self, *args: Any, **kwargs: Any) -> Any:
        """Return initial variables; see `flax.linen.Module.init`."""

    def apply(self, *args: Any, **kwargs: Any) -> Any:
        """Apply a method of the model to variables; see `flax.linen.Module.apply`."""

    def clone(self, **changes: Any) -> Self:
        """Return a copy with other attributes; see `flax.linen.Module.clone`."""
