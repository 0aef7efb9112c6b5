"""What is explained of models that generate text: the answer to a prompt."""

from __future__ import annotations

from collections.abc import Sequence

from palm_jax.errors import UserError
from palm_jax.explanations.explainable import AnswerOutput, Explainable
from palm_jax.explanations.words import TokenBytes, words_of


def of_answer(
    vocabulary: TokenBytes, prompt: Sequence[int], answer: Sequence[int], text: str, num_bidirectional: int = 0
) -> Explainable:
    """Return the log-probability of an answer as a function of the words of its prompt.

    Args:
      vocabulary: vocabulary of the ids.
      prompt: token ids before the answer, BOS included.
      answer: token ids of the answer, with EOS if it ended there.
      text: answer as text.
      num_bidirectional: number of leading tokens that attend to one another in both directions.

    Raises:
      UserError: if the prompt or the answer has no tokens.
    """
    if not prompt or not answer:
        raise UserError(f'The {"answer" if prompt else "text"} to explain is empty.')
    ids = (*prompt, *answer[:-1])
    positions = tuple(range(len(prompt) - 1, len(ids)))
    output = AnswerOutput(tuple(answer), positions)
    return Explainable(ids, words_of(ids, vocabulary, len(prompt)), text, output, num_bidirectional)
