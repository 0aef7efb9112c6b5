"""Heads for Transformers: its own class where one computes the same, else a class in a file beside the weights."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import jax
import numpy as np

from palm_jax.data.vocabulary.special_tokens import ExtendedVocabulary
from palm_jax.data.vocabulary.vocabularies import SPACE_MARK
from palm_jax.errors import UserError
from palm_jax.exchange import described, hf_config, hf_directory, hf_tokenizer
from palm_jax.exchange.families import Family, family_for
from palm_jax.exchange.hf_directory import DTYPES, HeadExport
from palm_jax.exchange.tensors import Tensor, transposed
from palm_jax.models.heads import Head
from palm_jax.models.palm import PaLM

MODULE = 'palm_heads.py'  # of this folder; the same name beside the weights


def of(model: Any, params: Any) -> HeadExport | None:
    """Return how the head of a `TrainedModel` is written; None for a head of another kind than `models.heads.Head`.

    Args:
      model: trained model that labels texts or words.
      params: its parameters with methods merged.

    Raises:
      UserError: if its attention is both limited to windows and bidirectional.
    """
    head, arch, data = model.model.head, model.model.arch, model.data
    if not isinstance(head, Head):
        return None
    family, of_words = family_for(arch), model.predictor.kind == 'tag'
    if data.bidirectional and arch.window is not None:
        raise UserError('Transformers cannot express windows of attention in both directions; use --format=stablehlo.')
    task = 'Token' if of_words else 'Sequence'
    reason = _what_is_missing(family, head, params, data.bidirectional, task)
    prefix, options = ('classifier', ', trust_remote_code=True') if reason else ('score', '')
    tensors = [transposed('head/kernel', f'{prefix}.weight', arch.d_model, head.num_outputs)]
    if reason or of_words:
        tensors.append(Tensor('head/bias', f'{prefix}.bias', (head.num_outputs,)))
    name = f'PaLMFor{task}Classification' if reason else f'{family.name}For{task}Classification'
    config = {'architectures': [name], **_labels(model), 'classifier_dropout': 0.0}
    if reason:
        config |= {
            'auto_map': {f'AutoModelFor{task}Classification': f'{Path(MODULE).stem}.{name}'},
            'pooling': head.pooling,
            'bidirectional': data.bidirectional,
        }
    return HeadExport(
        tensors=tensors,
        config=config,
        template=hf_tokenizer.Template(ends=not of_words, padding_side='right'),
        files={MODULE: _module(family)} if reason else {},
        command=f"AutoModelFor{task}Classification.from_pretrained('{{}}'{options})",
        reason=reason,
    )


def _module(family: Family) -> str:
    """Return the text of the file with the classes, for the configuration of a family."""
    text = Path(__file__).with_name(MODULE).read_text(encoding='utf-8')
    return text.replace('CohereConfig', f'{family.name}Config')


def _what_is_missing(family: Family, head: Head, params: Any, bidirectional: bool, task: str) -> str:
    """Return why no class of Transformers computes the same; empty if one does."""
    if family.name.startswith('Cohere'):
        return f'Transformers has no {family.name}For{task}Classification'
    if bidirectional:
        return f'{family.name}For{task}Classification attends only to the left'
    if task == 'Token':
        return ''
    if head.pooling != 'last':
        return f'{family.name}For{task}Classification has no pooling by {head.pooling!r}'
    return 'Transformers scores texts without a bias' if np.any(np.asarray(params['head']['bias'])) else ''


def _labels(model: Any) -> dict[str, Any]:
    """Return the keys of config.json about labels."""
    names = list(model.data.labels) or ['number']
    result = {'id2label': dict(enumerate(names)), 'label2id': {name: i for i, name in enumerate(names)}}
    if model.predictor.kind == 'tag':
        return result
    kind = model.predictor.label_kind
    single = 'single_label_classification' if kind.is_exclusive else 'multi_label_classification'
    return result | {'problem_type': single if kind.has_classes else 'regression'}


def verify(directory: Path, head: HeadExport, model: Any, params: Any, vocabulary: ExtendedVocabulary) -> str:
    """Compare scores and, for texts, token ids with those of Transformers.

    Args:
      directory: directory that `hf_directory.write` wrote.
      head: result of `of`.
      model: trained model.
      params: its parameters with methods merged.
      vocabulary: its vocabulary.

    Returns:
      A line that describes the comparison.

    Raises:
      UserError: if Transformers is not installed, or anything differs.
    """
    try:
        import torch
        import transformers
    except ImportError:
        raise UserError(
            f'{directory} was written, but Transformers is not installed to verify it: {hf_directory.NEEDS}'
        ) from None
    arch, predictor = model.model.arch, model.predictor
    auto = getattr(transformers, head.command.partition('.')[0])
    theirs = auto.from_pretrained(directory, trust_remote_code=bool(head.reason), dtype=torch.float32).eval()
    batch = described.example_batches(model)[0]
    tokens, segments = (np.asarray(batch[name], np.int32)[:4] for name in predictor.features)
    permutation = hf_directory.token_id_permutation(vocabulary, arch)
    with torch.no_grad():
        expected = theirs(torch.from_numpy(permutation[tokens]), torch.from_numpy(segments.astype(np.int64))).logits
    dtype = DTYPES[hf_config.read(directory)['dtype']]
    stored = jax.tree.map(lambda x: np.asarray(x).astype(dtype), params)
    plain = PaLM(dataclasses.replace(arch, dtype='float32'), head=model.model.head)
    features = (tokens, segments, segments) if model.data.bidirectional else (tokens, segments)
    scores = np.asarray(jax.jit(lambda p, *xs: predictor.apply(plain, p, *xs))(stored, *features))
    inside = segments > 0 if scores.ndim == 3 else slice(None)
    difference, largest = np.abs(scores - expected.numpy())[inside].max(), np.abs(scores[inside]).max()
    if not difference <= 1e-4 * max(largest, 1.0):
        raise UserError(f'{directory}: scores differ by {difference:.2e} of {largest:.3g}; do not use it.')
    if predictor.kind != 'tag':
        _compare_tokens(directory, model, permutation)
    return (
        f'scores     differ by at most {difference:.2e} of {largest:.3g} over {len(tokens)} texts '
        f'(Transformers {transformers.__version__})'
    )


def _compare_tokens(directory: Path, model: Any, permutation: np.ndarray) -> None:
    """Raise a UserError if the tokenizer encodes a text, or a pair, that fits otherwise than the data does."""
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(directory)
    for given in described.inputs_of(model):
        texts = (given,) if isinstance(given, str) else tuple(given)
        ids, was_truncated = model.data.tokens(*texts)
        if was_truncated or any(SPACE_MARK in text for text in texts):
            continue
        if (theirs := tokenizer(*texts)['input_ids']) != permutation[ids].tolist():
            raise UserError(f'{directory}: its tokenizer encodes {given!r} as {theirs}, not {ids}; do not use it.')
