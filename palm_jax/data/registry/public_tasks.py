"""Public datasets as registered tasks: text for pretraining, and tasks with inputs and targets.

Data is downloaded on first use, by TFDS or fsspec. GLUE, SuperGLUE, SQuAD, summarization, translation and reviews
have the format of T5 (Raffel et al., arXiv 1910.10683, appendix D), with the preprocessors and metrics of `t5`; they
are registered when a name is not found among the others.
"""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Callable, Iterator, Mapping

import gin
import seqio
import tensorflow as tf
import tensorflow_datasets as tfds

from palm_jax.data.readers import columns, files, tables
from palm_jax.data.readers.splits import SPLITS, Split, is_in_split
from palm_jax.data.registry.seqio_chains import (
    add_language_model_task,
    add_text_to_text_task,
    fill_templates,
    generator_source,
)
from palm_jax.data.registry.task_metrics import accuracy, entity_f1, text_metric
from palm_jax.data.supervised import conversations

WIKI40B = (
    *('en', 'ar', 'zh-cn', 'zh-tw', 'nl', 'fr', 'de', 'it', 'ja', 'ko', 'pl', 'pt', 'ru', 'es', 'th', 'tr', 'bg'),
    *('ca', 'cs', 'da', 'el', 'et', 'fa', 'fi', 'he', 'hi', 'hr', 'hu', 'id', 'lt', 'lv', 'ms', 'no', 'ro', 'sk'),
    *('sl', 'sr', 'sv', 'tl', 'uk', 'vi'),
)
GITHUB_CODE = 'hf://datasets/codeparrot/github-code-clean/data/train-*.parquet'
KDCONV = 'https://raw.githubusercontent.com/thu-coai/KdConv/master/data/{domain}/{part}.json'
NEEDS_T5 = (
    'GLUE, SuperGLUE, SQuAD, CNN/DailyMail, XSum, WMT and IMDB need t5, which is not installed: '
    'pip install --no-deps t5==0.9.4'
)
_PART_OF_TRAIN = {'train': 'train[:99%]', 'validation': 'train[99%:]'}
_TEST = {'train': 'train', 'validation': 'test'}


def add() -> None:
    """Register the tasks that do not need t5."""
    _add_pretraining()
    _add_others()


@functools.cache
def add_in_t5_format() -> bool:
    """Register the tasks that need t5; return whether it is installed. Importing it takes a second."""
    if importlib.util.find_spec('t5') is None:
        return False
    with gin.unlock_config():  # t5 registers with gin
        from t5.data import glue_utils, postprocessors, preprocessors
        from t5.evaluation import metrics
    _add_in_t5_format(glue_utils, postprocessors, preprocessors, metrics)
    return True


# Text for pretraining.


def _add_pretraining() -> None:
    def add(
        name: str, tfds_name: str, splits: Mapping[str, str] | None = None, text: str = 'text', *before: Callable
    ) -> None:
        add_language_model_task(name, seqio.TfdsDataSource(tfds_name, splits=splits), text, before)

    add('c4_en', 'c4/en:3.1.0')
    add('c4_realnewslike', 'c4/realnewslike:3.1.0')
    add('lm1b', 'lm1b:1.1.0', _TEST)
    add('wikipedia_en', 'wikipedia/20230601.en:1.0.0', _PART_OF_TRAIN)
    add('pg19', 'pg19:0.1.1', None, 'book_text')
    add('reddit', 'reddit:1.0.0', _PART_OF_TRAIN, 'content')
    for language in WIKI40B:
        name = f'wiki40b_{language.replace("-", "_")}'
        add(name, f'wiki40b/{language}:1.3.0', None, 'text', without_wiki40b_markers)
    add_language_model_task('github_code', generator_source(_code, SPLITS))
    # The six parts and rates of the paper (section 3.1, table 2), with open datasets in place of those that are not.
    seqio.MixtureRegistry.add(
        'palm_template',
        [
            ('reddit', 0.50),  # social media conversations
            ('c4_en', 0.27),  # filtered webpages
            ('pg19', 0.13),  # books
            ('github_code', 0.05),
            ('wiki40b_en', 0.04),  # Wikipedia
            ('c4_realnewslike', 0.01),  # news
        ],
    )


@seqio.map_over_dataset
def without_wiki40b_markers(example):
    """Wiki-40B's text with headings on separate lines instead of `_START_SECTION_` and similar markers."""
    text = tf.strings.regex_replace(example['text'], r'\n?_START_(ARTICLE|SECTION|PARAGRAPH)_\n', '\n')
    return example | {'text': tf.strings.strip(tf.strings.regex_replace(text, '_NEWLINE_', '\n'))}


def _code(split: Split) -> Iterator[dict[str, str]]:
    """Yield source files under permissive licenses; one in a thousand is in the validation split."""
    for file in files.glob_files(GITHUB_CODE, 'public_tasks.GITHUB_CODE'):
        for row in tables.rows(file, 'public_tasks.GITHUB_CODE'):
            text = columns.text(row, 'code', None)
            if is_in_split(text, 1000, split):
                yield {'text': text}


# Tasks in T5's format.


def _add_in_t5_format(glue_utils, postprocessors, preprocessors, metrics) -> None:
    def add(name: str, tfds_name: str, splits, before, metrics, postprocess=None) -> None:
        source = seqio.TfdsDataSource(tfds_name, splits=splits)
        add_text_to_text_task(name, source, before, metrics, postprocess)

    of_mnli = {'train': 'train', 'validation': 'validation_matched', 'test': 'test_matched'}
    for config in tfds.text.glue.Glue.builder_configs.values():
        only = {'ax': ['test'], 'mnli': of_mnli}
        name, measures = f'glue_{config.name}', glue_utils.get_glue_metric(config.name)
        before = [glue_utils.get_glue_text_preprocessor(config)]
        postprocess = glue_utils.get_glue_postprocess_fn(config)
        add(name, f'glue/{config.name}:2.0.0', only.get(config.name), before, measures, postprocess)
    as_premise = seqio.preprocessors.rekey
    of_axb = {'premise': 'sentence1', 'hypothesis': 'sentence2', 'label': 'label', 'idx': 'idx'}
    for config in tfds.text.super_glue.SuperGlue.builder_configs.values():
        if config.name == 'wsc':
            continue  # wsc.fixed is the same task with corrected spans
        name = f'super_glue_{config.name.removesuffix(".fixed")}'
        before = [glue_utils.get_glue_text_preprocessor(config)]
        if config.name == 'axb':
            before = [functools.partial(as_premise, key_map=of_axb), *before]
        splits = ['test'] if config.name in ('axb', 'axg') else None
        measures = glue_utils.SUPERGLUE_METRICS.get(config.name, [metrics.accuracy])
        postprocess = glue_utils.get_glue_postprocess_fn(config)
        add(name, f'super_glue/{config.name}:1.0.2', splits, before, measures, postprocess)
    # By size, as T5 mixed them.
    for benchmark, weights in (
        ('glue', glue_utils.GLUE_WEIGHT_MAPPING),
        ('super_glue', glue_utils.SUPER_GLUE_WEIGHT_MAPPING),
    ):
        sizes = {name.replace('_v002', '').replace('_v102', ''): size for name, size in weights.items() if size}
        sizes = {name.replace('wsc_simple_train', 'wsc'): size for name, size in sizes.items()}
        seqio.MixtureRegistry.add(benchmark, [(n, s) for n, s in sizes.items() if n.startswith(benchmark)])

    add('squad', 'squad/v1.1:3.0.0', None, [preprocessors.squad], [metrics.squad], postprocessors.qa)
    for name, tfds_name, article, summary in (
        ('cnn_dailymail', 'cnn_dailymail:3.4.0', 'article', 'highlights'),
        ('xsum', 'xsum:1.1.0', 'document', 'summary'),
    ):
        summarize = functools.partial(preprocessors.summarize, article_key=article, summary_key=summary)
        add(name, tfds_name, None, [summarize], [metrics.rouge])
    for year, pair in ((14, 'de-en'), (14, 'fr-en'), (16, 'ro-en'), (19, 'zh-en'), (19, 'de-en')):
        languages = pair.split('-')
        for source, target in (languages, languages[::-1]):
            translate = functools.partial(preprocessors.translate, source_language=source, target_language=target)
            add(
                f'wmt{year}_{source}_{target}',
                f'wmt{year}_translate/{pair}:1.0.0',
                None,
                [translate],
                [text_metric('bleu', tokenizer='zh') if target == 'zh' else metrics.bleu],
            )
    label_names = ('negative', 'positive')
    imdb = functools.partial(
        preprocessors.glue, benchmark_name='imdb', label_names=label_names, feature_names=('text',), id_key=None
    )
    as_class = functools.partial(postprocessors.string_label_to_class_id, label_classes=label_names)
    add('imdb', 'imdb_reviews:1.0.0', _TEST, [imdb], [metrics.accuracy], as_class)


# Others.


def _add_others() -> None:
    ner = ('O', *(f'{prefix}-{kind}' for kind in ('PER', 'ORG', 'LOC', 'MISC') for prefix in 'BI'))
    conll = seqio.TfdsDataSource('conll2003:1.0.0')
    add_text_to_text_task('conll2003', conll, [join_tags('ner', ner)], [entity_f1])
    # Chinese: classification, named entities, question answering, dialogue.
    pairs = fill_templates(inputs='paws sentence1: {sentence1} sentence2: {sentence2}')
    add_text_to_text_task(
        'paws_x_zh',
        seqio.TfdsDataSource('paws_x_wiki/zh:1.0.0'),
        [pairs, name_labels(('different_meaning', 'paraphrase'))],
        [accuracy],
    )
    wikiann = seqio.TfdsDataSource('wikiann/zh:1.0.0')
    add_text_to_text_task('wikiann_zh', wikiann, [join_tags('tags', ner[:-2])], [entity_f1])
    for language in ('zh', 'en'):
        xquad = seqio.TfdsDataSource(
            f'xquad/{language}:3.0.0',
            splits=_TEST | {'train': 'translate-train'} if language != 'en' else {'validation': 'test'},
        )
        answers = [_first_answer, fill_templates(inputs='question: {question} context: {context}')]
        add_text_to_text_task(f'xquad_{language}', xquad, answers, [text_metric('squad')])
    for domain in ('film', 'music', 'travel'):
        replies = functools.partial(_replies, domain)
        source = generator_source(replies, ('train', 'validation', 'test'), ('inputs', 'targets'))
        add_text_to_text_task(f'kdconv_{domain}', source, [], [text_metric('chrf', 'bleu', tokenizer='zh')])


def name_labels(names: tuple[str, ...]) -> Callable[[tf.data.Dataset], tf.data.Dataset]:
    """Return a preprocessor that sets `targets` to the name of the class `label`."""
    return seqio.map_over_dataset(lambda example: example | {'targets': tf.gather(names, example['label'])})


def join_tags(feature: str, names: tuple[str, ...]) -> Callable[[tf.data.Dataset], tf.data.Dataset]:
    """Return a preprocessor that joins words to `inputs` and the names of their tags to `targets`, with spaces."""

    def of_example(example):
        words = tf.strings.regex_replace(example['tokens'], r'\s', '_')
        tags = tf.gather(names, example[feature])
        return {name: tf.strings.reduce_join(v, separator=' ') for name, v in (('inputs', words), ('targets', tags))}

    return seqio.map_over_dataset(of_example)


@seqio.map_over_dataset
def _first_answer(example):
    return {name: example[name] for name in ('question', 'context')} | {'targets': example['answers']['text'][0]}


def _replies(domain: str, split: str) -> Iterator[dict[str, str]]:
    """Yield every turn of a dialogue but the first, with the previous turns as inputs."""
    path = KDCONV.format(domain=domain, part={'validation': 'dev'}.get(split, split))
    for conversation in conversations.Dialogues(path, path).examples('train'):
        turns = [turn.text for turn in conversation.turns]
        for number, turn in enumerate(conversation.turns):
            if turn.learned:
                yield {'inputs': '\n'.join(turns[:number]), 'targets': turn.text}
