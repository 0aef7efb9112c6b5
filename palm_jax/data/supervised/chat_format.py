"""Dialogues as token ids by the chat template of the base, with the loss on replies alone."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Sequence

from palm_jax.data.supervised.turn_format import Learned
from palm_jax.data.supervised.turns import Turn
from palm_jax.data.vocabulary.chat_template import ChatTemplate, Message
from palm_jax.data.vocabulary.hugging_face import HuggingFace
from palm_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class ChatFormat:
    """Messages as the base's chat template writes them.

    Of what is too long the oldest messages are left out, then the system message, and a single message is cut at its
    end.

    Attributes:
      vocabulary: tokenizer of the base.
      template: its chat template.
      input_length: maximum number of tokens before a learned reply, those of the template included.
      target_length: maximum number of tokens of a learned reply.
    """

    vocabulary: HuggingFace
    template: ChatTemplate
    input_length: int
    target_length: int

    @property
    def stop(self) -> tuple[str, ...]:
        """Strings that end a reply besides EOS."""
        return self.template.stop

    def prompt_ids(self, turns: Sequence[Turn]) -> tuple[int, ...]:
        """Return the ids of messages to be answered, up to where the reply begins."""
        return tuple(self._prompt(self._fitting(_messages(turns))))

    def sequences(self, turns: Sequence[Turn]) -> tuple[list[Learned], bool]:
        """Return the dialogue as one sequence, or as several where it is too long for one."""
        messages, was_truncated = _messages(turns), False
        pending = [number for number, turn in enumerate(turns) if turn.learned]
        for number in pending:
            ids = self.vocabulary.encode(messages[number]['content'])
            if len(ids) >= self.target_length:
                messages[number], was_truncated = self._cut(messages[number], self.target_length - 1), True
        whole = self._learned(messages[: pending[-1] + 1], pending)
        if whole is not None and len(whole.ids) <= self._length:
            return [whole], was_truncated
        sequences: list[Learned] = []
        unread = 0  # first message that no sequence holds yet
        while pending:
            first = pending[0]
            history = self._fitting(messages[:first])
            was_truncated |= history[-1:] != messages[first - 1 : first] or len(history) < first - unread
            sequence, count = self._longest(history, messages, pending)
            if len(sequence.ids) > self._length:
                ids, is_learned = sequence
                sequence, was_truncated = Learned(ids[: self._length], is_learned[: self._length]), True
            sequences.append(sequence)
            unread, pending = pending[count - 1] + 1, pending[count:]
        return sequences, was_truncated

    @property
    def _length(self) -> int:
        return self.input_length + self.target_length

    def _longest(
        self, history: list[Message], messages: Sequence[Message], pending: Sequence[int]
    ) -> tuple[Learned, int]:
        """Return the sequence of the first pending reply and of as many more as fit, and their number."""
        first, offset = pending[0], pending[0] - len(history)
        found: Learned | None = None
        for count in range(1, len(pending) + 1):
            window = [*history, *messages[first : pending[count - 1] + 1]]
            longer = self._learned(window, [number - offset for number in pending[:count]])
            if longer is None or (found is not None and len(longer.ids) > self._length):
                break
            found = longer
        else:
            count += 1
        assert found is not None, 'a text ends with its last reply'
        return found, count - 1

    def _learned(self, messages: Sequence[Message], replies: Collection[int]) -> Learned | None:
        """Return the tokens up to the end of the last reply; None if one text cannot hold all of them."""
        found = self.template.replies(messages, replies)
        if found is None:
            return None
        ids, is_learned = self.vocabulary.encode_marked(*found)
        if not any(is_learned):
            raise UserError("The base's chat template leaves the replies out, so that there is nothing to learn.")
        end = len(ids) - is_learned[::-1].index(True)
        return Learned(ids[:end], is_learned[:end])

    def _prompt(self, messages: Sequence[Message]) -> list[int]:
        return self.vocabulary.encode(self.template.render(messages, add_generation_prompt=True))

    def _fitting(self, messages: list[Message]) -> list[Message]:
        """Return the newest messages whose prompt fits."""
        num_system = sum(message['role'] == 'system' for message in messages[:1])
        system, others = messages[:num_system], messages[num_system:]
        firsts = [n for n, message in enumerate(others) if n == 0 or message['role'] == 'user']
        for before in (system, []) if system else ([],):
            for first in firsts:
                kept = [*before, *others[first:]]
                if len(self._prompt(kept)) <= self.input_length:
                    return kept
        kept = others[firsts[-1] :] if firsts else system
        return self._cut_last(kept) if kept else kept

    def _cut_last(self, messages: list[Message]) -> list[Message]:
        size = len(self.vocabulary.encode(messages[-1]['content']))
        while (excess := len(self._prompt(messages)) - self.input_length) > 0:
            if size == 0:
                raise UserError(
                    f"The base's chat template alone takes {self.input_length + excess} tokens, but "
                    f"TASK_FEATURE_LENGTHS has {self.input_length} for 'inputs'."
                )
            size = max(0, size - excess)
            messages = [*messages[:-1], self._cut(messages[-1], size)]
        return messages

    def _cut(self, message: Message, size: int) -> Message:
        """Return a message whose content has at most `size` tokens."""
        content = self.vocabulary.decode(self.vocabulary.encode(message['content'])[:size]).rstrip('\ufffd')
        return {**message, 'content': content}


def _messages(turns: Sequence[Turn]) -> list[Message]:
    return [{'role': turn.role, 'content': turn.text} for turn in turns]
