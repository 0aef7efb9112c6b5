"""Runs of the versions in which a run did not say its kind of task: their configuration gets what it lacks.

In those versions a kind of label was a string, and whatever used the model asked the class of the data for the kind of
task. `add_task` binds the kind of label and the predictor as gin/heads does today.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from palm_jax.configuration.compose import render_file
from palm_jax.configuration.statements import GinText, Import, Macro, Reference, Statement, held, read_statements
from palm_jax.errors import UserError

_LABEL_KINDS = {
    'class': ('single_label', 'SingleLabel'),
    'labels': ('label_set', 'LabelSet'),
    'number': ('number', 'Number'),
}
# Parameters that took the kind of label, by the class that has them.
_TAKE_A_KIND = ('LabelledTable.kind', 'HeadReporter.kind')
# Module and class of the predictor, by the class of the data.
_PREDICTORS = {
    'LabelledText': ('label_predictor', 'LabelPredictor'),
    'TaggedText': ('tag_predictor', 'TagPredictor'),
    'TextToText': ('text_to_text_predictor', 'TextToTextPredictor'),
    'LanguageModelData': ('language_model_predictor', 'LanguageModelPredictor'),
}
_CHAT = ('chat_predictor', 'ChatPredictor')
_PREDICTOR = 'predictor.for_run.predictor'


def add_task(text: str) -> str:
    """Return the configuration of a run with its kind of label and its predictor bound; a newer one is unchanged.

    Args:
      text: `config.gin` of a run. What gin cannot read is left for the loader to report; what includes other files, no
        program has written.
    """
    try:
        statements, imports = read_statements(GinText(text, 'config.gin'), with_includes=False)
    except UserError:
        return text
    if any(line.startswith('include ') for line in text.splitlines()):
        return text
    data = [_class_of(statement.value) for statement in statements if statement.name == 'DATA']
    if any(s.name.endswith(_PREDICTOR) for s in statements) or not data or data[-1] not in _PREDICTORS:
        return text
    is_chat = data[-1] == 'TextToText' and any(_class_of(r) == 'Dialogues' for s in statements for r in _references(s))
    module, name = _CHAT if is_chat else _PREDICTORS[data[-1]]
    bindings = {'PREDICTOR': Reference(f'{module}.{name}', evaluated=True), _PREDICTOR: Macro('PREDICTOR')}
    if name == 'LabelPredictor':
        bindings['label_predictor.LabelPredictor.label_kind'] = Macro('LABEL_KIND')
    imports += [_import('palm_jax.predictors', 'predictor'), _import('palm_jax.predictors', module)]
    imports += [_import('palm_jax.labels', _LABEL_KINDS[s.value][0]) for s in statements if _is_kind(s)]
    statements = [_with_kind_as_object(s) if _is_kind(s) else s for s in statements]
    statements += [Statement(name, value, 'config.gin') for name, value in bindings.items()]
    return render_file(statements, imports)


def _class_of(value: object) -> str:
    """Return the class that a value refers to: `LabelledText` of `@labelled_text.LabelledText()`; empty for none."""
    return value.name.rpartition('.')[2] if isinstance(value, Reference) else ''


def _references(statement: Statement) -> Sequence[Reference]:
    return list(held(statement.value, Reference))


def _is_kind(statement: Statement) -> bool:
    """Return whether a statement binds a kind of label to a string."""
    owner = '.'.join(statement.name.split('.')[-2:])
    takes_a_kind = statement.name == 'LABEL_KIND' or owner.rpartition('/')[2] in _TAKE_A_KIND
    return takes_a_kind and isinstance(statement.value, str) and statement.value in _LABEL_KINDS


def _with_kind_as_object(statement: Statement) -> Statement:
    return dataclasses.replace(statement, value=Reference('.'.join(_LABEL_KINDS[statement.value]), evaluated=True))


def _import(package: str, module: str) -> Import:
    return Import(f'{package}.{module}', module, f'from {package} import {module}', 'config.gin')
