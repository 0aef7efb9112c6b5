"""The Fisher information of a trained model on the training part of its run."""

from __future__ import annotations

import numpy as np

from palm_jax.api.trained_model import TrainedModel
from palm_jax.errors import UserError
from palm_jax.peft.method import AdaptedModel
from palm_jax.training import fisher
from palm_jax.training.fisher import Fisher, Targets
from palm_jax.training.losses import LanguageModelLoss, has_row_losses


def of_run(model: TrainedModel, rows: int, targets: Targets = 'model', seed: int = 0) -> tuple[Fisher, int]:
    """Return the Fisher information of a model, with all methods merged into its base, and the number of rows used.

    Args:
      model: model of a run on a table.
      rows: number of training rows, drawn by the seed; all of them if there are no more.
      targets: see `training.fisher.diagonal`.
      seed: seed for the rows and for the model's targets.

    Raises:
      UserError: the run was pretrained on text, or its rows have no loss of their own; its base is quantized, or a
        method cannot be merged.
    """
    encode = getattr(model.data, 'encode', None)
    if encode is None:
        raise UserError(f'{model.config.parent} was pretrained on text; name a run that was fine-tuned on a table.')
    loss = model.run.get('loss') or LanguageModelLoss()
    if not has_row_losses(loss):
        raise UserError(
            f'{model.config.parent} was trained {model.predictor.purpose}: its loss compares the rows of a batch, so '
            'that a row alone has no likelihood, and there is no Fisher information.'
        )
    try:
        params = model.merged()
    except UserError as error:
        raise UserError(f'The Fisher information is that of the weights of the base. {error}') from None
    features = encode('train')
    count = len(next(iter(features.values())))
    chosen = np.sort(np.random.default_rng(seed).permutation(count)[:rows])
    features = {name: x[chosen] for name, x in features.items()}
    values = fisher.diagonal(AdaptedModel(model.model.model), params, loss, features, targets, seed)
    return Fisher(values, tuple(model.data.labels) or None), len(chosen)
