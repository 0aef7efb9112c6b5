"""Configurations of runs that do not say their kind of task."""

import pytest

from palm_jax.configuration.earlier_tasks import add_task

HEADER = 'from __gin__ import dynamic_registration\n\nfrom palm_jax.data.supervised import labelled_text\n\n'
PREDICTORS = {
    'DATA = @labelled_text.LabelledText()': 'label_predictor.LabelPredictor',
    'DATA = @tagged_text.TaggedText()': 'tag_predictor.TagPredictor',
    'DATA = @text_to_text.TextToText()': 'text_to_text_predictor.TextToTextPredictor',
    'CONVERSATIONS = @conversations.Dialogues()\nDATA = @text_to_text.TextToText()': 'chat_predictor.ChatPredictor',
    'DATA = @dataset.LanguageModelData()': 'language_model_predictor.LanguageModelPredictor',
}


@pytest.mark.parametrize('data', PREDICTORS)
def test_the_data_says_the_predictor(data):
    lines = add_task(f'{HEADER}{data}\n').splitlines()
    predictor = PREDICTORS[data]
    assert f'PREDICTOR = @{predictor}()' in lines and 'predictor.for_run.predictor = %PREDICTOR' in lines
    registration = lines.index('from __gin__ import dynamic_registration')
    imports = lines.index(f'from palm_jax.predictors import {predictor.partition(".")[0]}')
    assert registration < imports < lines.index(f'PREDICTOR = @{predictor}()')


@pytest.mark.parametrize(
    ('old', 'new'),
    [
        ("'class'", '@single_label.SingleLabel()'),
        ("'labels'", '@label_set.LabelSet()'),
        ("'number'", '@number.Number()'),
    ],
)
def test_a_kind_of_label_becomes_an_object(old, new):
    text = add_task(f'{HEADER}DATA = @labelled_text.LabelledText()\nLABEL_KIND = {old}\n')
    assert f'LABEL_KIND = {new}\n' in text and f'import {new[1:].partition(".")[0]}\n' in text
    assert 'label_predictor.LabelPredictor.label_kind = %LABEL_KIND' in text


def test_what_says_its_task_or_has_other_data_stays():
    for text in (f'{HEADER}DATA = @mine.Data()\n', f'{HEADER}predictor.for_run.predictor = @mine.Predictor()\n'):
        assert add_task(text) == text
    once = add_task(f'{HEADER}DATA = @labelled_text.LabelledText()\n')
    assert add_task(once) == once
