"""Runs of the versions in which a run did not say its kind of task: their configuration gets what it lacks.

In those versions a kind of label was a string, and whatever used the model asked the class of the data for the kind of
task. `add_task` binds the kind of label and the predictor as gin/heads does today.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

_REGISTRATION = 'from __gin__ import dynamic_registration\n'
_LABEL_KINDS = {
    'class': ('single_label', 'SingleLabel'),
    'labels': ('label_set', 'LabelSet'),
    'number': ('number', 'Number'),
}
# Module and class of the predictor, by the class of the data.
_PREDICTORS = {
    'LabelledText': ('label_predictor', 'LabelPredictor'),
    'TaggedText': ('tag_predictor', 'TagPredictor'),
    'TextToText': ('text_to_text_predictor', 'TextToTextPredictor'),
    'LanguageModelData': ('language_model_predictor', 'LanguageModelPredictor'),
}
_CHAT = ('chat_predictor', 'ChatPredictor')
_KIND = re.compile(r"^(LABEL_KIND|(?:\w+\.)*LabelledTable\.kind|(?:\w+\.)*HeadReporter\.kind) = '(\w+)'$", re.MULTILINE)
_DATA = re.compile(r'^DATA = @(?:\w+\.)*(\w+)\(\)$', re.MULTILINE)
_DIALOGUES = re.compile(r'^\S+ = @(?:\w+\.)*Dialogues\(\)$', re.MULTILINE)


def add_task(text: str) -> str:
    """Return the configuration of a run with its kind of label and its predictor bound; a newer one is unchanged.

    Args:
      text: `config.gin` of a run, one statement per line.
    """
    data = _DATA.search(text)
    if 'predictor.for_run' in text or data is None or data[1] not in _PREDICTORS:
        return text
    imports = ['from palm_jax.predictors import predictor']

    def as_object(match: re.Match[str]) -> str:
        module, name = _LABEL_KINDS[match[2]]
        imports.append(f'from palm_jax.labels import {module}')
        return f'{match[1]} = @{module}.{name}()'

    text = _KIND.sub(as_object, text)
    is_chat = data[1] == 'TextToText' and _DIALOGUES.search(text)
    module, name = _CHAT if is_chat else _PREDICTORS[data[1]]
    imports.append(f'from palm_jax.predictors import {module}')
    bindings = [f'PREDICTOR = @{module}.{name}()', 'predictor.for_run.predictor = %PREDICTOR']
    if name == 'LabelPredictor':
        bindings.append('label_predictor.LabelPredictor.label_kind = %LABEL_KIND')
    return _with_imports(text, imports) + '\n' + '\n'.join(bindings) + '\n'


def _with_imports(text: str, imports: Sequence[str]) -> str:
    """Return the text with further imports after the line that turns gin's registration on."""
    lines = ''.join(f'{line}\n' for line in dict.fromkeys(imports))
    return text.replace(_REGISTRATION, _REGISTRATION + lines, 1)
