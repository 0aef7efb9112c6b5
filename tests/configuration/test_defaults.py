"""The default of a knob is the same in Python and in the part of gin that names it."""

from palm_jax.configuration import reference
from palm_jax.configuration.compose import render
from palm_jax.configuration.statements import Macro, Reference, held, open_file, read_statements

# PaLM's schedule has the paper's learning rate in Python; that of gin is a recipe's. A dialogue has turns, other pairs
# of texts have none. The part that splits layers over stages has two of them. Python groups no examples by length,
# because a group has to fit the batch size, which the data does not know. LoRA has peft's dropout in Python; that of
# gin is a recipe's.
DIFFERENT = {
    'schedules.palm.learning_rate',
    'lora.LoRA.dropout_rate',
    'text_to_text.TextToText.chat_template',
    'partitioning.MeshLayout.stage',
    *(
        f'{data}.group_by_length'
        for data in ('labelled_text.LabelledText', 'tagged_text.TaggedText', 'text_to_text.TextToText')
    ),
}
PARTS = [path for path in reference.package_files() if path.parent.name != 'gin']


def knobs():
    """Yield (part, parameter, value) of every parameter that reads a macro with a default.

    Its default is the plain value that the same part gives it or, if no other part gives it another, some part does.
    """
    macros, read = {}, []
    for path in PARTS:
        statements, _ = read_statements(open_file(path), with_includes=False)
        part = f'{path.parent.name}/{path.name}'
        for statement in statements:
            if statement.is_macro and not any(held(statement.value, Reference)):
                macros.setdefault(statement.name, {})[part] = statement.value
            elif isinstance(statement.value, Macro):
                read.append((part, f'{statement.selector}.{statement.parameter}', statement.value.name))
    for part, parameter, macro in read:
        values = macros.get(macro, {})
        if part in values or len(values) == 1:
            yield part, parameter, values.get(part, next(iter(values.values())))


def test_python_and_gin_have_the_same_defaults():
    defaults = {binding.name: binding.default for binding in reference.read(PARTS)}
    disagree = [
        f'{part}: {parameter} is {render(value)}, but {defaults[parameter]} in Python'
        for part, parameter, value in knobs()
        if parameter not in DIFFERENT
        and defaults[parameter] not in (None, render(value), render(tuple(value)) if isinstance(value, list) else None)
    ]
    assert not disagree, '\n'.join(disagree)


def test_most_knobs_are_compared():
    assert len(list(knobs())) > 100
