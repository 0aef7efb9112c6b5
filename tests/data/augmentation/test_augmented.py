"""Further training examples: of which rows, how many, the same in every run, and never of the held-out part."""

import collections

import numpy as np
import pytest

from palm_jax.data.augmentation.aeda import AEDA
from palm_jax.data.augmentation.augmented import augment
from palm_jax.data.augmentation.eda import EDA
from palm_jax.data.supervised.conversations import Dialogues, PairTable
from palm_jax.data.supervised.labelled_text import LabelledTable, LabelledText
from palm_jax.data.supervised.tagged_text import TaggedTable
from palm_jax.data.supervised.text_to_text import TextToText
from palm_jax.errors import UserError

SWAP = EDA(operators=['swap'])


@pytest.fixture
def table(tmp_path):
    path = tmp_path / 'table.csv'
    rows = [f'the text of number {i} is here,{"rare" if i % 10 == 0 else "often"}' for i in range(60)]
    path.write_text('text,label\n' + '\n'.join(rows) + '\n')
    return LabelledTable(str(path))


def test_copies_follow_the_originals_and_say_where_they_are_from(table):
    source = augment(table, [AEDA(), SWAP], copies=3, seed=5)
    originals, examples = table.examples('train'), source.examples('train')
    assert examples[: len(originals)] == originals and len(examples) == 7 * len(originals)
    assert source.examples('validation') == table.examples('validation')
    by_location = {example.location: example for example in originals}
    origins = collections.Counter()
    for example in examples[len(originals) :]:
        location, _, name = example.location.partition(', augmented by ')
        origins[name] += 1
        original = by_location[location]
        assert example.label == original.label and example.text != original.text
        words = [word for word in example.text.split() if word not in '.;?:!,']
        assert sorted(words) == sorted(original.text.split())
    assert origins == {'AEDA': 3 * len(originals), 'EDA': 3 * len(originals)}
    assert len({example.text for example in examples}) == len(examples)


def test_what_is_made_of_a_row_depends_on_the_seed_and_the_row_alone(table, tmp_path):
    source = augment(table, [SWAP], copies=2, seed=5)
    again, other = (augment(table, [SWAP], copies=2, seed=seed).examples('train') for seed in (5, 6))
    assert source.examples('train') == again != other
    longer = tmp_path / 'longer.csv'
    longer.write_text((tmp_path / 'table.csv').read_text() + 'one more row,often\n')
    held_out = str(tmp_path / 'table.csv')
    short, long = (
        augment(LabelledTable(str(path), held_out), [EDA()], copies=1).examples('train')
        for path in (tmp_path / 'table.csv', longer)
    )
    assert [e.text for e in long[61 : 61 + 60]] == [e.text for e in short[60:]]


def test_the_data_of_a_run_has_the_copies_in_training_only(table):
    plain = LabelledText(table, {'inputs': 60}, 'bytes')
    data = LabelledText(augment(table, [AEDA()], copies=2), {'inputs': 60}, 'bytes')
    assert data.num_sequences == 3 * plain.num_sequences
    assert data.num_validation_sequences == plain.num_validation_sequences
    assert data.labels == plain.labels and data.identity()['train'] != plain.identity()['train']
    assert data.identity()['validation'] == plain.identity()['validation']
    assert augment(table) is table and augment(table, [AEDA()], copies=0) is table


@pytest.mark.parametrize('classes', ['minority', ['rare']])
def test_only_rare_classes_if_asked_for(table, classes):
    source = augment(table, [AEDA()], copies=4, classes=classes)
    counts = collections.Counter(example.label for example in source.examples('train'))
    plain = collections.Counter(example.label for example in table.examples('train'))
    assert counts['often'] == plain['often'] and counts['rare'] == 5 * plain['rare']


def test_no_copy_is_a_held_out_text(tmp_path):
    path = tmp_path / 'train.csv'
    path.write_text('text,label\n' + ''.join(f'{i} and,x\nother {i},y\n' for i in range(20)))
    held_out = tmp_path / 'held_out.csv'
    held_out.write_text('text,label\n' + ''.join(f'and {i},x\n' for i in range(20)))
    made = augment(LabelledTable(str(path), str(held_out)), [SWAP]).examples('train')[40:]
    assert [example.text.split()[1] for example in made] == ['other'] * 20


def test_of_a_conversation_the_turns_that_are_read_change(tmp_path):
    path = tmp_path / 'pairs.csv'
    path.write_text('input,target\n' + ''.join(f'say the number {i},the number is {i}\n' for i in range(30)))
    source = augment(PairTable(str(path)), [AEDA()])
    data = TextToText(source, {'inputs': 40, 'targets': 40}, 'bytes')
    originals = PairTable(str(path)).examples('train')
    for original, made in zip(originals, source.examples('train')[len(originals) :], strict=True):
        assert made.turns[0].text != original.turns[0].text and made.turns[1] == original.turns[1]
    assert data.num_sequences == 2 * len(originals) and data.prompt({'input': 'x'})
    assert augment(Dialogues(None), [AEDA()]).validation_files is None


def test_what_does_not_fit_is_refused(table, tmp_path):
    with pytest.raises(
        UserError, match=r"no training row has the class 'raer'. Did you mean rare\? Known: often, rare"
    ):
        augment(table, [AEDA()], classes=['raer']).examples('train')
    path = tmp_path / 'tags.conll'
    path.write_text(''.join(f'Ann{i} B-PER\nis O\n\n' for i in range(30)))
    with pytest.raises(UserError, match=r'gin/methods/entity_replacement\.gin'):
        augment(TaggedTable(str(path)), [AEDA()]).examples('train')
    with pytest.raises(UserError, match='AUGMENT_CLASSES needs a class per text'):
        augment(
            PairTable(str(tmp_path / 'table.csv'), input='{text}', target='{label}'), [AEDA()], classes='minority'
        ).examples('train')
    assert np.isclose(AEDA().share, 1 / 3)
