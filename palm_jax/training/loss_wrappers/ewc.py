"""Elastic weight consolidation (Kirkpatrick et al., arXiv 1612.00796): weights that earlier tasks need change less."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any

import jax
import jax.numpy as jnp

from palm_jax.bounds import AtLeast, checked
from palm_jax.errors import UserError
from palm_jax.models.quantization import is_quantized
from palm_jax.parameters import leaves_by_path, path_name
from palm_jax.training import fisher
from palm_jax.training.loss_wrappers.wrapper import LossWrapper


@checked
@dataclasses.dataclass(frozen=True)
class EWC(LossWrapper):
    """L + λ/2·Σ_i F_i·(θ_i − θ*_i)², θ* the weights of the initial checkpoint and F their Fisher information.

    θ are the weights of the base, with all methods merged into them, so that LoRA and training everything are held by
    the same F. New parameters, such as a head for other labels, are free. F is read once, before the first step, and
    kept with the state of the run.

    Attributes:
      weight: weight λ; 0 trains without the penalty.
      file: what `palm-jax fisher` wrote for the earlier tasks.
    """

    weight: Annotated[float, AtLeast(0)] = 1000.0
    file: str | None = None

    @property
    def penalty_name(self):
        """`ewc_penalty`, λ/2·Σ_i F_i·(θ_i − θ*_i)²."""
        return 'ewc_penalty' if self.weight else None

    def __call__(self, loss, inputs):
        """Return the loss as it is: the penalty is none of the batch."""
        return loss(inputs)

    def of_prediction(self, loss, prediction, inputs):
        """Return the loss as it is."""
        return loss.of_prediction(prediction, inputs)

    def anchor(self, model: Any, params: Any, trained: Any) -> dict[str, Any]:
        """Return `start`, and `fisher`: a number for every weight that may change."""
        if not self.weight:
            return {}
        is_boxed = lambda x: hasattr(x, 'names') or is_quantized(x)  # noqa: E731
        plain = jax.tree.map(lambda x: x.value if hasattr(x, 'names') else x, params, is_leaf=is_boxed)
        if any(map(is_quantized, jax.tree.leaves(plain, is_leaf=is_quantized))):
            raise UserError("EWC holds weights, and BASE_WEIGHTS rounds them: set --gin.BASE_WEIGHTS='stored'.")
        before = leaves_by_path(plain)
        chosen = {path_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(trained)}
        try:
            after = leaves_by_path(model.merge(plain))
        except UserError as error:
            raise UserError(
                f'EWC holds the weights of the base. {error} Train with --gin_file=gin/peft/lora.gin or full.gin.'
            ) from None
        changing = {path for path, leaf in after.items() if path in chosen or leaf is not before[path]}
        return {'start': jax.tree.map(jnp.copy, trained), 'fisher': _zeros(params, changing)}

    def fill(self, anchor, new, labels):
        """Return the anchor with the file's numbers; those of new parameters are 0.

        Raises:
          UserError: the file cannot be read, or is of another model.
        """
        if not self.weight:
            return anchor
        found = fisher.read(self.file)
        same_head = found.labels == (None if labels is None else tuple(labels))

        def value(key_path: Any, leaf: jax.Array) -> jax.Array:
            path = path_name(key_path)
            if path in new or (path.startswith('head/') and not same_head):
                return leaf
            if path not in found.values or found.values[path].shape != leaf.shape:
                there = found.values[path].shape if path in found.values else 'missing'
                raise UserError(
                    f'FISHER_FILE = {self.file!r} is of another model: {path} is {there} there, {leaf.shape} here. '
                    'Write it for the run that INITIAL_CHECKPOINT_PATH names.'
                )
            return jax.device_put(found.values[path], leaf.sharding)

        return anchor | {'fisher': jax.tree_util.tree_map_with_path(value, anchor['fisher'])}

    def penalty(self, model, params, start, anchor):
        """Return λ/2·Σ_i F_i·(θ_i − θ*_i)²."""
        now, then = (leaves_by_path(_merged(model, tree)) for tree in (params, start))
        terms = (
            jnp.sum(f * jnp.square(now[path] - then[path])) for path, f in leaves_by_path(anchor['fisher']).items()
        )
        return self.weight / 2 * sum(terms, jnp.float32(0))


def _merged(model: Any, params: Any) -> Any:
    """Weights of the base that compute the same, in float32: a small change of bfloat16 weights is not rounded."""
    return model.merge(jax.tree.map(lambda x: x.astype(jnp.float32), params))


def _zeros(params: Any, paths: set[str]) -> Any:
    """The leaves with these paths as float32 zeros, boxed as they are."""
    tree: dict[str, Any] = {}
    for key_path, leaf in jax.tree_util.tree_leaves_with_path(params, is_leaf=lambda x: hasattr(x, 'names')):
        if (path := path_name(key_path)) in paths:
            *branches, name = path.split('/')
            at = tree
            for branch in branches:
                at = at.setdefault(branch, {})
            at[name] = jax.tree.map(lambda x: jnp.zeros(x.shape, jnp.float32), leaf)
    return tree
