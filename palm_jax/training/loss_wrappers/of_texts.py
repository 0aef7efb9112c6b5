"""The check of methods that need a class per text."""

from __future__ import annotations

from palm_jax.errors import UserError
from palm_jax.models.model import Model


def check_labels_texts(name: str, model: Model) -> None:
    """Refuse a model without a head that scores whole texts.

    Args:
      name: name of the method, for the message.
      model: model of the run.

    Raises:
      UserError: the model tags words or generates text.
    """
    if getattr(model.head, 'pooling', 'none') == 'none':
        raise UserError(
            f'{name} needs a class per text, --gin_file=gin/heads/classification.gin, not a model that tags words or '
            'generates text.'
        )
