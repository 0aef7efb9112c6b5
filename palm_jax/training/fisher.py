"""The diagonal of the Fisher information of a trained model, and its file."""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from palm_jax.errors import UserError
from palm_jax.models.model import Model
from palm_jax.parameters import leaves_by_path
from palm_jax.training.progress import track

Targets = Literal['model', 'data']
_ROWS = 16  # rows between two updates of the progress bar
_LABELS = ':labels'  # in the file, beside the paths


@dataclasses.dataclass(frozen=True)
class Fisher:
    """The diagonal of the Fisher information.

    Attributes:
      values: float32 arrays by the path of their parameter, in the parameter's shape.
      labels: names of the head's classes; None without such a head.
    """

    values: Mapping[str, np.ndarray]
    labels: tuple[str, ...] | None = None

    def after(self, earlier: Fisher, decay: float) -> Fisher:
        """Return γ·F_earlier + F (online EWC, Schwarz et al., arXiv 1805.06370).

        Args:
          earlier: that of the earlier tasks; of its head nothing is kept if the labels differ.
          decay: γ.

        Raises:
          UserError: the two are of different models.
        """
        kept = {p: x for p, x in earlier.values.items() if not p.startswith('head/') or self.labels == earlier.labels}
        other = [path for path, x in kept.items() if path not in self.values or self.values[path].shape != x.shape]
        if other:
            raise UserError(f'--previous is of a model of another form: this one has no {other[0]} of that shape.')
        values = {p: x + np.float32(decay) * kept[p] if p in kept else x for p, x in self.values.items()}
        return Fisher(values, self.labels)

    def write(self, path: Path) -> None:
        """Write the `.npz` file that `read` reads."""
        arrays: dict[str, Any] = {**self.values, _LABELS: np.array(json.dumps(self.labels))}
        np.savez(path, **arrays)


def read(path: str | None, binding: str = 'FISHER_FILE') -> Fisher:
    """Read what `Fisher.write` has written.

    Args:
      path: the file.
      binding: macro or flag that names it, for messages.

    Raises:
      UserError: there is no such file, or it is another one.
    """
    if path is None:
        raise UserError(
            'FISHER_FILE is not set: name what palm-jax fisher --gin_file=.../config.gin --output=fisher.npz writes '
            'for the run of the earlier task.'
        )
    try:
        with np.load(path) as file:
            found = {name: file[name] for name in file.files}
        labels = json.loads(str(found.pop(_LABELS)))
    except Exception:  # whatever a damaged archive, or another one, raises
        raise UserError(f'{binding} = {path!r} cannot be read: is it what palm-jax fisher wrote?') from None
    return Fisher(found, None if labels is None else tuple(labels))


def diagonal(
    model: Model,
    params: Any,
    loss: Any,
    features: Mapping[str, np.ndarray],
    targets: Targets = 'model',
    seed: int = 0,
) -> dict[str, np.ndarray]:
    """Return F_i = Σ_n (∂ log p(y_n | x_n) / ∂θ_i)² / Σ_n w_n over rows n, w_n the number of a row's targets.

    The gradient is that of one row at a time, without dropout. With targets of the model, y_n is drawn from p(· | x_n)
    once for every row, and F is an estimate of the Fisher information per target; with targets of the data it is the
    empirical Fisher information.

    Args:
      model: model without fine-tuning methods.
      params: all parameters of the model.
      loss: loss of the run, with `predict`, `of_prediction`, `likelihood` and `with_sampled_targets`.
      features: features [N, ...] of the rows.
      targets: whether y is the model's or the data's.
      seed: seed for the model's targets.

    Returns:
      Float32 arrays by path.

    Raises:
      UserError: the loss has no likelihood.
    """
    if not hasattr(loss, 'with_sampled_targets'):
        raise UserError(f'LOSS = {type(loss).__name__} has no likelihood, whose gradient the Fisher information needs.')
    likelihood, name = loss.likelihood(), 'label_weights' if 'label_weights' in features else 'decoder_loss_weights'
    features = dict(features) | {name: (features[name] != 0).astype(features[name].dtype)}

    def negative_log_likelihood(params: Any, row: dict[str, jax.Array], rng: jax.Array) -> jax.Array:
        prediction = likelihood.predict(model, params, row)
        if targets == 'model':
            drawn = jax.lax.stop_gradient(likelihood.with_sampled_targets(prediction, model, params, row, rng))
            row = drawn
        return likelihood.of_prediction(prediction, model, params, row)[0]

    @functools.partial(jax.jit, donate_argnums=0)
    def add(total: Any, params: Any, rows: dict[str, jax.Array], rngs: jax.Array) -> Any:
        def of_row(total, row_and_rng):
            row, rng = row_and_rng
            gradient = jax.grad(negative_log_likelihood)(params, {k: x[None] for k, x in row.items()}, rng)
            return jax.tree.map(lambda t, g: t + jnp.square(g.astype(jnp.float32)), total, gradient), None

        return jax.lax.scan(of_row, total, (rows, rngs))[0]

    count, key = len(features[name]), jax.random.key(seed)
    total = jax.tree.map(lambda x: jnp.zeros_like(x, jnp.float32), params)
    parts = range(0, count, _ROWS)
    for first in track(parts, len(parts), 'gradients'):
        rows = {k: jnp.asarray(x[first : first + _ROWS]) for k, x in features.items()}
        numbers = jnp.arange(first, min(first + _ROWS, count))
        total = add(total, params, rows, jax.vmap(functools.partial(jax.random.fold_in, key))(numbers))
    weight = max(float(features[name].sum()), 1.0)
    return {path: np.asarray(x) / np.float32(weight) for path, x in leaves_by_path(total).items()}
