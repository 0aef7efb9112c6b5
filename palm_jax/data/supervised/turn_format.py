"""Conversations as token ids: `turn EOS turn EOS ...`, the format of bases that have none of their own."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple, Protocol

from palm_jax.data.supervised.turns import Turn
from palm_jax.data.vocabulary.vocabulary import Vocabulary
from palm_jax.special_ids import EOS_ID


class Learned(NamedTuple):
    """A sequence of token ids from its first one on, and whether each is learned."""

    ids: list[int]
    is_learned: list[bool]


class Format(Protocol):
    """How turns become token ids."""

    @property
    def stop(self) -> tuple[str, ...]:
        """Strings that end a generated turn besides EOS."""

    def prompt_ids(self, turns: Sequence[Turn]) -> tuple[int, ...]:
        """Return the ids of turns to be answered, cut to the length of inputs."""

    def sequences(self, turns: Sequence[Turn]) -> tuple[list[Learned], bool]:
        """Return the sequences of a conversation, and whether something was cut off.

        Raises:
          UserError: if the turns cannot be written.
        """


@dataclasses.dataclass(frozen=True)
class TurnFormat:
    """`0 turn EOS turn EOS ...`, where 0 is the start token, if the base has one.

    Attributes:
      vocabulary: vocabulary of the base.
      input_length: maximum number of tokens of the turns before a learned one.
      target_length: maximum number of tokens of a learned turn.
    """

    vocabulary: Vocabulary
    input_length: int
    target_length: int

    stop = ()

    def prompt_ids(self, turns: Sequence[Turn]) -> tuple[int, ...]:
        """Return `0 turn EOS ...`: the newest turns that fit; a single one is cut at its end."""
        ids: list[int] = []
        for turn in reversed(turns):
            encoded = [*self.vocabulary.encode(turn.text), EOS_ID]
            if len(encoded) + len(ids) >= self.input_length:
                if not ids:
                    ids = [*encoded[: self.input_length - 2], EOS_ID]
                break
            ids = encoded + ids
        return (*self.vocabulary.start_ids, *ids)

    def sequences(self, turns: Sequence[Turn]) -> tuple[list[Learned], bool]:
        """Return sequences of at most both lengths after the start token, in which learned turns follow others."""
        sequences, was_truncated = [], False
        ids: list[int] = []
        learned: list[bool] = []
        num_start, start = len(self.vocabulary.start_ids), 0  # first turn after the last learned one
        for number, turn in enumerate(turns):
            if not turn.learned:
                continue
            target = self.vocabulary.encode(turn.text)
            was_truncated |= len(target) + 1 > self.target_length
            target = [*target[: self.target_length - 1], EOS_ID]
            read = [i for t in turns[start:number] for i in (*self.vocabulary.encode(t.text), EOS_ID)]
            start = number + 1
            if not ids or len(ids) - num_start + len(read) + len(target) > self.input_length + self.target_length:
                if ids:
                    sequences.append(Learned(ids, learned))
                first = self.prompt_ids(turns[:number])
                was_truncated |= len(first) - num_start < len(read)
                ids, learned = list(first), [False] * len(first)
            else:
                ids, learned = ids + read, learned + [False] * len(read)
            ids, learned = ids + target, learned + [True] * len(target)
        return [*sequences, Learned(ids, learned)], was_truncated
