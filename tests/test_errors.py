"""Suggestions of the closest name."""

from palm_jax.errors import closest, did_you_mean, no_column


def test_the_closest_name_is_suggested_in_any_case_or_none():
    assert closest('TRIAN', ['train', 'eval']) == ' Did you mean train?'
    assert closest('xyz', ['train', 'eval']) == '' and closest('train', []) == ''


def test_a_column_that_is_not_there_is_named_with_those_that_are():
    assert no_column('txt', {'text': 'a', 'label': 'b'}) == (
        "no column 'txt'. Did you mean text? Columns: text, label."
    )


def test_names_that_share_rare_words_are_suggested_where_none_is_spelled_alike():
    known = ['LORA_RANK', 'LORA_ALPHA', 'TRAIN_FILES', 'TRAIN_STEPS', 'WARMUP_STEPS', 'EVAL_STEPS', 'MODEL_DIR']
    assert closest('peft_rank', known) == ' Did you mean LORA_RANK?'
    assert closest('ADAPTER_MODEL_RANK', known) == ' Did you mean LORA_RANK or MODEL_DIR?'
    assert closest('HYPERPARAMETER_STEPS', known) == ' Did you mean EVAL_STEPS, TRAIN_STEPS or WARMUP_STEPS?'
    assert closest('HYPERPARAMETER_STEPS', [*known, 'SAVE_STEPS']) == ''  # too many, none better than another
    assert closest('speed', known) == closest('PEFT_DEPTH', known) == ''
    assert did_you_mean([]) == ''
