"""The check of methods that learn from texts without labels: the task has one class per text."""

from __future__ import annotations

from typing import Any

from palm_jax.errors import UserError


def check_one_class(what: str, table: Any) -> None:
    """Refuse a table of other labels than one class per text, or of none.

    Args:
      what: name of the method or its binding, for the message.
      table: source of a task's examples.

    Raises:
      UserError: with what to do instead.
    """
    kind = getattr(table, 'kind', None)
    if kind is None or not kind.is_exclusive or kind.num_scores(3) != 3:  # a score for each class
        raise UserError(
            f'{what} needs one class per text: --gin_file=gin/heads/classification.gin. For label sets, numbers and '
            'generated text, let a finished run answer with palm-jax infer, and train on its answers: '
            '--gin_file=gin/methods/replay.gin --gin.REPLAY_FILES=answers.jsonl --gin.REPLAY_PREDICTED=True.'
        )
