"""palm-jax vocabulary --task=python_stdlib --size=32000 --output=vocabulary.model

Trains a SentencePiece vocabulary with PaLM's settings (byte fallback, split digits, preserved white space)
on a task, a mixture or text files. A training run does the same on first use.
"""

from __future__ import annotations

from collections.abc import Sequence

from palm_jax.cli.parser import Parser, file_name, positive
from palm_jax.data.pretraining.corpus import Corpus
from palm_jax.data.vocabulary import fitting


def main(arguments: Sequence[str]) -> int:
    """Train a vocabulary, check the round trip on a text, and print its compression."""
    parser = Parser(
        prog='palm-jax vocabulary',
        description=__doc__,
        example='palm-jax vocabulary --train_files=notes.txt --size=4000 --output=vocabulary.model',
    )
    parser.add_argument('--task', default='python_stdlib', help='registered seqio task or mixture')
    parser.add_argument('--train_files', help='text files (a file, folder or glob); default: the texts of --task')
    parser.add_argument('--size', type=positive, default=32_000, help='number of pieces')
    parser.add_argument('--output', type=file_name('.model'), required=True, help='.model file to write')
    options = parser.parse_args(arguments)

    corpus = Corpus(options.task, train_files=options.train_files)
    vocabulary = fitting.fit(corpus.texts(), options.size, options.output, setting='--size={}'.format)
    sample = next(iter(corpus.texts()))
    ids = vocabulary.encode(sample)
    assert vocabulary.decode(ids) == sample, 'the vocabulary is not lossless'
    print(f'{vocabulary.fingerprint}: {len(sample.encode()) / len(ids):.2f} bytes per token on the first document')
    print(f'use it with --gin.VOCABULARY={options.output} --gin.VOCABULARY_SIZE={vocabulary.size}')
    return 0
