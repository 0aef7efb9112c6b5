"""Batches of conversations: the model reads all turns and learns to generate some of them."""

from __future__ import annotations

import dataclasses
import functools
import logging
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from palm_jax.bounds import Count, Seed
from palm_jax.data.readers.splits import Split
from palm_jax.data.supervised.chat_format import ChatFormat
from palm_jax.data.supervised.conversations import Conversation, Source
from palm_jax.data.supervised.cut_answers import CutAnswers
from palm_jax.data.supervised.examples import Batch
from palm_jax.data.supervised.in_memory import InMemoryData
from palm_jax.data.supervised.packing import pack
from palm_jax.data.supervised.turn_format import Format, TurnFormat
from palm_jax.data.supervised.turns import Turn
from palm_jax.data.vocabulary.vocabularies import HuggingFace, Vocabulary
from palm_jax.errors import UserError, located
from palm_jax.metrics import text_baselines

_LOGGER = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class EvalPrompt:
    """The turns before a held-out target.

    Attributes:
      ids: token ids, BOS included.
      text: the turns' text.
      references: the correct targets.
    """

    ids: tuple[int, ...]
    text: str
    references: tuple[str, ...]


class TokenFeatureSource(Protocol):
    """A source of further features of training rows."""

    def features(self, features: Batch, vocabulary: Vocabulary) -> Batch:
        """Return features [E, L, ...] of rows whose other features are given."""


class TextToText(InMemoryData):
    """Conversations as rows of `0 turn EOS turn EOS ...`, with the loss on the learned turns and their EOS only.

    Of a base without a start token the 0 is missing, and a chat template has its own tokens around turns.

    Turns that are only read are truncated to `inputs` tokens: a single turn at its end, a history by dropping its
    oldest turns. A learned turn is truncated to `targets` tokens. A long dialogue becomes several sequences. The number
    of truncated examples is printed.

    Args:
      source: source of the conversations.
      lengths: {'inputs': I, 'targets': T}; sequences have I + T tokens.
      vocabulary: `bytes` or the path of a SentencePiece model: the vocabulary of the base model.
      bidirectional: whether the turns before the first learned one attend in both directions: a prefix LM.
      pack: whether short sequences share a row, each as a segment with positions of its own that attends to itself only
        (as in Flan-PaLM, arXiv 2210.11416, section 2.2). A step over the same number of rows then learns from more
        examples.
      chat_template: whether turns are written by the chat template of the base's tokenizer, if it has one; False, or
        without one, they are `turn EOS`.
      group_by_length: size of the groups of examples of similar length, see `LengthGroups`, or the ramp of BATCH_SIZE;
        None does not group.
      seed: seed for shuffling.
      further: sources of further features of the training part, e.g. predictions of a teacher.
    """

    weights = 'decoder_loss_weights'

    def __init__(
        self,
        source: Source,
        lengths: Mapping[str, Count],
        vocabulary: str,
        bidirectional: bool = False,
        pack: bool = False,
        chat_template: bool = False,
        group_by_length: Count | tuple[tuple[int, int], ...] | None = None,
        seed: Seed = 0,
        further: Sequence[TokenFeatureSource] = (),
    ):
        if {'inputs', 'targets'} - set(lengths) or min(lengths['inputs'], lengths['targets']) < 3:
            raise UserError(
                f"TASK_FEATURE_LENGTHS is {dict(lengths)}; it needs 'inputs' and 'targets' of at least 3 tokens each."
            )
        super().__init__(source, vocabulary, seed, group_by_length)
        self.bidirectional, self._pack = bidirectional, pack
        self._uses_template = chat_template
        self._further = tuple(further)
        if not pack:
            self.against_padding += ', --gin.PACK=True puts several examples into a row'
        self.input_length, self.target_length = lengths['inputs'], lengths['targets']
        self.length = self.input_length + self.target_length

    @property
    def source(self) -> Source:
        """Source of the conversations."""
        return self._source

    def example(self) -> str:
        """Return the first training sequence, token by token, with the positions that the loss counts."""
        row = self.first()
        end = int(np.flatnonzero(row['decoder_loss_weights'])[-1]) + 1
        lines = ['position  input → target, ✓ if the loss counts it']
        for i in range(end):
            source, target = (int(row[f'decoder_{name}_tokens'][i]) for name in ('input', 'target'))
            shown = [repr(self.vocabulary.decode([token])) for token in (source, target)]
            mark = '✓' if row['decoder_loss_weights'][i] else '·'
            lines.append(f'{i:>8}  {source:>6} {shown[0]:<18} → {target:>6} {shown[1]:<18} {mark}')
        return '\n'.join(lines)

    def prompts(self) -> list[EvalPrompt]:
        """Return a prompt for each learned turn of the validation split; equal prompts are merged."""
        prompts: dict[tuple[int, ...], EvalPrompt] = {}
        for conversation in self.examples('validation'):
            for number, turn in enumerate(conversation.turns):
                if turn.learned:
                    before = conversation.turns[:number]
                    ids = self.prompt_ids(before)
                    known = prompts[ids].references if ids in prompts else ()
                    references = (*known, *(conversation.references or (turn.text,)))
                    text = '\n'.join(t.text for t in before)
                    prompts[ids] = EvalPrompt(ids, text, tuple(dict.fromkeys(references)))
        return list(prompts.values())

    @functools.lru_cache(maxsize=1)  # noqa: B019 - the data lives as long as the run, and is asked for the same prompts
    def nearest_answers(self, prompts: tuple[EvalPrompt, ...]) -> list[str]:
        """Return, for each prompt, the target of the training example whose turns before it are nearest."""
        texts, targets = [], []
        for conversation in self.examples('train'):
            for number, turn in enumerate(conversation.turns):
                if turn.learned:
                    texts.append('\n'.join(t.text for t in conversation.turns[:number]))
                    targets.append(turn.text)
        return [targets[i] for i in text_baselines.nearest(texts, [prompt.text for prompt in prompts])]

    @functools.cached_property
    def _format(self) -> Format:
        template = self.vocabulary.chat_template if self._uses_template else None
        if template is None:
            return TurnFormat(self.vocabulary, self.input_length, self.target_length)
        assert isinstance(self.vocabulary, HuggingFace), 'only its tokenizers have a template'
        return ChatFormat(self.vocabulary, template, self.input_length, self.target_length)

    @property
    def stop(self) -> tuple[str, ...]:
        """Strings that end a generated turn besides EOS."""
        return self._format.stop

    def prompt_ids(self, turns: Sequence[Turn]) -> tuple[int, ...]:
        """Return the ids of turns to be answered, at most `inputs` tokens after the start token; see `Format`."""
        return self._format.prompt_ids(turns)

    def prompt(self, inputs: Any) -> tuple[int, ...]:
        """Return the ids of a user's inputs, see `Source.prompt_turns`: a text, columns or a history."""
        return self.prompt_ids(self.source.prompt_turns(inputs))

    def encode(self, split: Split) -> Batch:
        """Return the features of a split: targets, inputs shifted right by one, and the weights of the targets."""
        rows, num_truncated, answers = [], 0, CutAnswers()
        conversations = self.examples(split)
        for conversation in conversations:
            with located(conversation.location):
                sequences, was_truncated = self._format.sequences(conversation.turns)
            rows += sequences
            num_truncated += was_truncated
            self._count_answer(answers, conversation, was_truncated)
        if warning := answers.warning(f'the {split} examples'):
            _LOGGER.warning(f"{warning}. --gin.TASK_FEATURE_LENGTHS=\"{{'inputs': ..., 'targets': ...}}\" takes more.")
        self._num_truncated[split] = num_truncated
        if num_truncated:
            _LOGGER.warning(
                f'{num_truncated:,} of {len(conversations):,} {split} examples '
                f'({num_truncated / len(conversations):.0%}) are longer than '
                f'{self.input_length} + {self.target_length} tokens and are truncated; --gin.TASK_FEATURE_LENGTHS='
                "\"{'inputs': ..., 'targets': ...}\" takes more."
            )
        groups = pack([len(ids) - 1 for ids, _ in rows], self.length) if self._pack else [[i] for i in range(len(rows))]
        if split == 'train' and self._pack:
            _LOGGER.info('%s examples in %s rows of %d tokens', f'{len(rows):,}', f'{len(groups):,}', self.length)
        names = ('input_tokens', 'target_tokens', 'loss_weights', 'causal_attention', 'segment_ids', 'positions')
        features = {name: np.zeros((len(groups), self.length), np.int32) for name in names}
        for row, group in enumerate(groups):
            start = 0
            for segment, (ids, learned) in enumerate((rows[i] for i in group), 1):
                size = len(ids) - 1
                place = (row, slice(start, start + size))
                # Every token is the target of those before it; the first one has none, which is BOS where there is one.
                features['input_tokens'][place], features['target_tokens'][place] = ids[:-1], ids[1:]
                features['loss_weights'][place] = learned[1:]
                features['causal_attention'][row, start : start + learned.index(True)] = 1
                features['segment_ids'][place], features['positions'][place] = segment, range(size)
                start += size
        if not self.bidirectional:
            del features['causal_attention']
        if not self._pack:
            del features['segment_ids'], features['positions']
        found = {f'decoder_{name}': values for name, values in features.items()}
        for teacher in self._further_for('tokens') if split == 'train' else ():
            found |= teacher.features(found, self.vocabulary)
        return found

    def _count_answer(self, answers: CutAnswers, conversation: Conversation, was_truncated: bool) -> None:
        """Count the answer of a conversation that has just one, the last turn."""
        *before, last = conversation.turns
        if before and last.learned and not any(turn.learned for turn in before):
            text = '\n'.join(turn.text for turn in before)
            kept = self.vocabulary.decode(self.prompt_ids(before)) if was_truncated else text
            answers.add(text, kept, conversation.references or (last.text,))
