"""Parameter trees and their paths, as users write them: `stack/attn/qkv/q`."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import jax

from palm_jax.errors import UserError


def path_name(path: tuple[Any, ...]) -> str:
    """A leaf's path from jax's key path, the same whether the leaf is boxed with its axes or not."""
    return '/'.join(str(key.key) for key in path if isinstance(key, jax.tree_util.DictKey))


def path_mask(patterns: Iterable[str], params: Any, binding: str) -> Any:
    """A tree of bools: does one of the patterns match the whole path?

    Args:
      patterns: regular expressions.
      params: a tree of parameters.
      binding: where the patterns come from, for the message.

    Raises:
      UserError: a pattern that matches no parameter, with the paths that exist, or that is no
        regular expression.
    """
    paths = [path_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(params)]
    patterns = tuple(patterns)
    for pattern in patterns:
        try:
            found = any(re.fullmatch(pattern, path) for path in paths)
        except re.error as error:
            raise UserError(f'{binding}: {pattern!r} is no regular expression ({error}).') from None
        if not found:
            listing = '\n  '.join(dict.fromkeys(paths))
            raise UserError(f'{binding}: {pattern!r} matches no parameter. Known paths:\n  {listing}')
    return jax.tree_util.tree_map_with_path(
        lambda path, _: any(re.fullmatch(pattern, path_name(path)) for pattern in patterns), params
    )


def merge_matching(params: Any, others: Any) -> Any:
    """A tree whose leaves are those of `others` where it has one of the same path and shape."""
    theirs = {path_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(others)}

    def pick(path, leaf):
        other = theirs.get(path_name(path), leaf)
        return other if other.shape == leaf.shape else leaf

    return jax.tree_util.tree_map_with_path(pick, params)
