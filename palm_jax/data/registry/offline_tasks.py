"""Registered tasks that need no download: the tables of `offline` and the source of the standard library."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence

from palm_jax.data.readers.splits import SPLITS, Split
from palm_jax.data.registry import offline, stdlib
from palm_jax.data.registry.seqio_chains import add_language_model_task, add_text_to_text_task, generator_source
from palm_jax.data.registry.task_metrics import Metric, accuracy, entity_f1, text_metric
from palm_jax.data.supervised.conversations import PairTable
from palm_jax.data.supervised.tagged_text import TaggedTable

# Name: table, input, target, key that keeps examples in one split, metric.
PAIRS: dict[str, tuple[str, str, str, str | None, Metric]] = {
    'stdlib_docstrings': ('docstrings', 'summarize: {source}', '{summary}', '{module}', text_metric('rouge', 'chrf')),
    'stdlib_function_names': ('function_names', 'name: {source}', '{name}', '{module}', text_metric('squad', 'chrf')),
    'cldr_translations': (
        *('translations', 'to {target}: {name}', '{translation}', '{name}'),
        text_metric('chrf', 'bleu', tokenizer='char'),
    ),
    'cldr_territories': (
        *('territories', 'question: {question} context: {context}', '{answer}', '{territory}'),
        text_metric('squad'),
    ),
    'cldr_languages': ('languages', '{text}', '{label}', None, accuracy),
}


def add() -> None:
    """Register all of them."""
    add_language_model_task('python_stdlib', generator_source(stdlib.examples, SPLITS))
    for name, (table, inputs, targets, split_by, metric) in PAIRS.items():
        pairs = functools.partial(_pairs, table, inputs, targets, split_by)
        _add_pairs(name, pairs, metric)
    _add_pairs('stdlib_tokens', _tags, entity_f1)


def _add_pairs(name: str, generate: Callable[[Split], Iterator[Mapping[str, str]]], metric: Metric) -> None:
    source = generator_source(generate, SPLITS, ('inputs', 'targets'))
    add_text_to_text_task(name, source, (), [metric])


def _pairs(table: str, inputs: str, targets: str, split_by: str | None, split: Split) -> Iterator[Mapping[str, str]]:
    pairs = PairTable(offline.table(table), input=inputs, target=targets, split_by=split_by)
    for conversation in pairs.examples(split):
        yield _pair([turn.text for turn in conversation.turns])


def _tags(split: Split) -> Iterator[Mapping[str, str]]:
    """Yield lines of Python tokens, and their types, separated by spaces."""
    for sentence in TaggedTable(offline.table('tokens')).examples(split):
        if not any(' ' in word for word in sentence.words):
            yield _pair([' '.join(sentence.words), ' '.join(sentence.tags)])


def _pair(texts: Sequence[str]) -> Mapping[str, str]:
    return dict(zip(('inputs', 'targets'), texts, strict=True))
