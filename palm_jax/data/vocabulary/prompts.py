"""Initialization of soft prompts (Lester et al., arXiv 2104.08691, section 3.2)."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from palm_jax.data.vocabulary.vocabularies import load_vocabulary
from palm_jax.errors import UserError


def initial_ids(
    vocabulary: str, length: int, text: str | None = None, labels: Sequence[str] | None = None
) -> list[list[int]] | None:
    """Return the tokens whose mean embedding initializes each position of a prompt; None for common tokens.

    Args:
      vocabulary: `bytes` or the path of a vocabulary.
      length: number of positions of the prompt.
      text: text whose tokens initialize the positions, repeated if they are too few.
      labels: one label per position ("class label" initialization); further positions take common tokens.

    Raises:
      UserError: if both are given, or one of them is empty.
    """
    if text is not None and labels is not None:
        raise UserError('PROMPT_TEXT and PROMPT_LABELS are both set; a prompt is initialized from one of them.')
    if text is not None:
        ids = [[token] for token in load_vocabulary(vocabulary).encode(text)]
        if not ids:
            raise UserError('PROMPT_TEXT is empty; None initializes the prompt with common tokens.')
        return list(itertools.islice(itertools.cycle(ids), length))
    if labels is None:
        return None
    ids = load_vocabulary(vocabulary).encode_all(labels)
    if not all(ids) or len(ids) > length:
        raise UserError(
            f'PROMPT_LABELS has {len(ids)} labels for PROMPT_LENGTH = {length} positions; none of them may be empty.'
        )
    return ids
