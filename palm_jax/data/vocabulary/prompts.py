"""What a soft prompt begins as (Lester et al., arXiv 2104.08691, section 3.2)."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from palm_jax.data.vocabulary.vocabularies import load_vocabulary
from palm_jax.errors import UserError


def initial_ids(
    vocabulary: str, length: int, text: str | None = None, labels: Sequence[str] | None = None
) -> list[list[int]] | None:
    """The tokens whose mean embedding each place of a prompt begins with; None is common tokens.

    Args:
      vocabulary: `bytes` or a SentencePiece model.
      length: places of the prompt.
      text: its tokens are the places, from the beginning again where they are too few.
      labels: each is a place, as in "class label" initialisation; places beyond them are common tokens.

    Raises:
      UserError: both are given, or one that is empty.
    """
    if text is None and labels is None:
        return None
    if text is not None and labels is not None:
        raise UserError('PROMPT_TEXT and PROMPT_LABELS are both given; a prompt begins as one of them.')
    vocab = load_vocabulary(vocabulary)
    if text is not None:
        ids = [[token] for token in vocab.encode(text)]
        if not ids:
            raise UserError('PROMPT_TEXT is empty; None begins the prompt with common tokens.')
        return list(itertools.islice(itertools.cycle(ids), length))
    ids = [vocab.encode(label) for label in labels]
    if not all(ids) or len(ids) > length:
        raise UserError(
            f'PROMPT_LABELS has {len(ids)} labels for PROMPT_LENGTH = {length} places; none of them may be empty.'
        )
    return ids
