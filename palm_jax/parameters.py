"""Parameter trees and the paths of their leaves: `stack/attn/qkv/q`."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import jax

from palm_jax.errors import UserError


def path_name(path: tuple[Any, ...]) -> str:
    """Return the path of a leaf from its key path in JAX; the same for leaves boxed with their axes."""
    return '/'.join(str(key.key) for key in path if isinstance(key, jax.tree_util.DictKey))


def leaves_by_path(tree: Any) -> dict[str, Any]:
    """The leaves of a tree by path, `stack/attn/qkv/k`."""
    leaves = jax.tree_util.tree_leaves_with_path(tree, is_leaf=lambda x: hasattr(x, 'shape'))
    return {jax.tree_util.keystr(p, simple=True, separator='/'): x for p, x in leaves}


def path_mask(patterns: Iterable[str], params: Any, binding: str) -> Any:
    """Return a tree of bools: whether one of the patterns matches the whole path of the leaf.

    Args:
      patterns: regular expressions.
      params: tree of parameters.
      binding: name of the setting with the patterns, for messages.

    Raises:
      UserError: if a pattern matches no parameter (the message lists the paths), or is not a regular expression.
    """
    paths = [path_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(params)]
    patterns = tuple(patterns)
    for pattern in patterns:
        try:
            found = any(re.fullmatch(pattern, path) for path in paths)
        except re.error as error:
            raise UserError(f'{binding}: {pattern!r} is not a regular expression ({error}).') from None
        if not found:
            listing = '\n  '.join(dict.fromkeys(paths))
            raise UserError(f'{binding}: {pattern!r} matches no parameter. Known paths:\n  {listing}')
    return jax.tree_util.tree_map_with_path(
        lambda path, _: any(re.fullmatch(pattern, path_name(path)) for pattern in patterns), params
    )


def merge_matching(params: Any, others: Any) -> Any:
    """Return `params` with the leaves of `others` wherever it has one of the same path and shape."""
    theirs = {path_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(others)}

    def pick(path: tuple[Any, ...], leaf: Any) -> Any:
        other = theirs.get(path_name(path), leaf)
        return other if other.shape == leaf.shape else leaf

    return jax.tree_util.tree_map_with_path(pick, params)
