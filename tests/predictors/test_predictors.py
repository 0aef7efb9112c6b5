"""Each kind of task on a micro model with random parameters: rows, predictions, JSON, and the wrong method."""

import jax
import numpy as np
import pytest
from scipy.special import softmax

from palm_jax.api.trained_model import TrainedModel
from palm_jax.data.readers.tables import Row
from palm_jax.data.supervised.conversations import Dialogues, PairTable
from palm_jax.data.supervised.labelled_text import LabelledTable, LabelledText
from palm_jax.data.supervised.tagged_text import TaggedTable, TaggedText
from palm_jax.data.supervised.text_to_text import TextToText
from palm_jax.errors import UserError
from palm_jax.inference.generate import Sampler
from palm_jax.labels.number import Number
from palm_jax.labels.single_label import SingleLabel
from palm_jax.models.heads import Head
from palm_jax.models.palm import PaLM
from palm_jax.peft.method import AdaptedModel
from palm_jax.predictors.chat_predictor import ChatPredictor
from palm_jax.predictors.generator import Generator
from palm_jax.predictors.label_predictor import LabelPredictor
from palm_jax.predictors.language_model_predictor import LanguageModelPredictor
from palm_jax.predictors.tag_predictor import TagPredictor
from palm_jax.predictors.text_to_text_predictor import TextToTextPredictor
from palm_jax.training import state

SAMPLER = Sampler(max_tokens=4, temperature=0.0)
TAGS = ('O', 'B-PER', 'I-PER')


@pytest.fixture
def trained(micro):
    """Builds a trained model of data, predictor and head."""

    def build(data, predictor, head=None):
        model = AdaptedModel(PaLM(micro(vocab_size=259, num_layers=1)[0].arch, head=head))
        params = state.unbox(state.init_params(model, jax.random.key(0)))
        return TrainedModel(model, params, data, '', predictor, SAMPLER)

    return build


def labelled(**options):
    return LabelledText(LabelledTable(None, **options), {'inputs': 16}, 'bytes')


def conversations(source):
    return TextToText(source, {'inputs': 16, 'targets': 8}, 'bytes')


def row(**values):
    return Row(values, 'in.jsonl, line 3')


def test_labels_of_texts_and_of_pairs(trained):
    model = trained(labelled(names=['no', 'yes']), LabelPredictor(SingleLabel()), Head(2))
    assert model.predictor.parse(model, row(text='hello', id='7')) == 'hello'
    with pytest.raises(UserError, match=r"in.jsonl, line 3: no column 'text'. Did you mean txt\?.*"):
        model.predictor.parse(model, row(txt='hello'))
    texts = [f'text {i}' for i in range(5)]
    predictions = model.predict(texts, batch_size=4)
    features, _ = model.data.inputs([(text, None) for text in texts])
    tokens, segments = (features[name] for name in model.predictor.features)
    scores = np.asarray(model.predictor.apply(model.model, model.params, tokens, segments))
    for prediction, p in zip(predictions, softmax(scores, axis=-1), strict=True):
        assert [prediction[name] for name in ('no', 'yes')] == pytest.approx(p, abs=1e-5)
    assert model.predictor.endpoint == '/v1/classify' and not isinstance(model.predictor, Generator)
    assert model.predict([]) == []

    pairs = trained(labelled(kind=Number(), second_text_column='b'), LabelPredictor(Number()), Head(1))
    assert pairs.predictor.reads_pairs(pairs) and pairs.predictor.parse(pairs, row(text='x', b='y')) == ('x', 'y')
    (number,) = pairs.predict(['x'], ['y'])
    assert isinstance(number, float) and pairs.predict([('x', 'y')]) == [number] != pairs.predict(['x'])


def test_entities_have_their_characters(trained):
    data = TaggedText(TaggedTable(None, names=TAGS), {'inputs': 32}, 'bytes')
    model = trained(data, TagPredictor(), Head(3, pooling='none'))
    model.params['head']['bias'] = np.array([-9, 9, 0], np.float32)  # every word is an entity
    assert model.predictor.parse(model, row(text='Ann met Bob.')) == 'Ann met Bob.'
    (entities,) = model.extract_entities(['Ann met Bob.'])
    assert [e['text'] for e in entities] == ['Ann', 'met', 'Bob', '.']
    assert all('Ann met Bob.'[e['start'] : e['end']] == e['text'] and e['type'] == 'PER' for e in entities)
    assert model.predict([['Ann', 'met']]) == model.extract_entities(['Ann met']) and model.extract_entities([]) == []
    assert model.predictor.to_json(entities) == {'entities': entities} == model.predictor.to_response(entities)


def test_a_language_model_continues_texts_and_reads_chats_as_lines(trained):
    model = trained(conversations(None), LanguageModelPredictor())
    predictor, encode = model.predictor, model.data.vocabulary.encode
    assert predictor.parse(model, row(text='abc')) == 'abc' and predictor.prompt(model, 'abc') == (0, *encode('abc'))
    with pytest.raises(UserError, match='line 3: the text is longer than the 24 tokens'):
        predictor.parse(model, row(text='x' * 24))
    ids, stop = predictor.chat_prompt(model, [{'role': 'user', 'content': 'hi'}])
    assert ids == (0, *encode('user: hi\nassistant:')) and stop == ('\nuser:',)
    ((completion,),) = model.completions(['abc'])
    assert model.generate(['abc']) == [completion.text] == model.predict(['abc']) and len(completion.ids) <= 4
    assert predictor.to_json(completion.text) == {'predicted': completion.text}
    (scored,) = model.score([('abc', 'de')])
    assert len(scored.logprobs) == 2
    assert len(predictor.answer(model, ['x' * 99, 'y'])) == 2  # the beginning of the first is dropped


def test_text_to_text_makes_its_input_of_columns(trained):
    model = trained(conversations(PairTable(None, input='{q}: {c}')), TextToTextPredictor())
    predictor, encode = model.predictor, model.data.vocabulary.encode
    columns = predictor.parse(model, row(q='who', c='Ann', other='x'))
    assert predictor.prompt(model, columns) == (0, *encode('who: Ann'), 1)
    with pytest.raises(UserError, match=r'line 3: .*give a dict with q, c'):
        predictor.parse(model, row(q='who'))
    (text,) = model.generate([columns])
    assert model.predict([columns]) == [text] and model.predictor.target(model, 'a') == [*encode('a'), 1]
    (long,) = model.completions([columns], Sampler(max_tokens=100, temperature=0.0))[0]
    assert len(long.ids) <= 8  # a training target is no longer
    simple = trained(conversations(PairTable(None, input='{q}')), TextToTextPredictor())
    messages = [{'role': 'user', 'content': 'hi'}, {'role': 'user', 'content': 'who'}]
    assert simple.predictor.chat_prompt(simple, messages) == (simple.predictor.prompt(simple, 'who'), ())


def test_a_chat_reads_all_messages(trained):
    model = trained(conversations(Dialogues(None)), ChatPredictor())
    predictor, encode = model.predictor, model.data.vocabulary.encode
    parsed = predictor.parse(model, row(messages='["hi", {"content": "yo"}]'))
    assert predictor.prompt(model, parsed) == (0, *encode('hi'), 1, *encode('yo'), 1)
    assert predictor.parse(model, row(messages='hello'))['messages'] == 'hello'
    with pytest.raises(UserError, match='line 3: A dialogue needs a message'):
        predictor.parse(model, row(text='hello'))
    messages = [{'role': 'user', 'content': 'hi'}, {'role': 'assistant', 'content': 'yo'}]
    assert predictor.chat_prompt(model, messages) == (predictor.prompt(model, messages), ())
    assert predictor.endpoint == '/v1/chat/completions' and model.predict(['hi']) == model.generate([['hi']])


def test_one_text_is_one_text_and_no_text_is_refused(trained):
    classes = trained(labelled(names=['no', 'yes']), LabelPredictor(SingleLabel()), Head(2))
    assert classes.predict('a text') == classes.predict(['a text']) == classes.predict(iter(['a text']))
    assert classes.predict('a', 'b') == classes.predict([('a', 'b')])
    with pytest.raises(UserError, match='There are 2 texts, but 1 second text'):
        classes.predict(['a', 'b'], ['c'])
    with pytest.raises(UserError, match=r"Input 1 is \('a', 'b', 'c'\); give a text or a pair"):
        classes.predict(['x', ('a', 'b', 'c')])
    tags = trained(TaggedText(TaggedTable(None, names=TAGS), {'inputs': 32}, 'bytes'), TagPredictor(), Head(3, 'none'))
    pairs = trained(conversations(PairTable(None, input='{q}')), TextToTextPredictor())
    text = trained(conversations(None), LanguageModelPredictor())
    assert pairs.predict({'q': 'who'}) == pairs.predict(['who']) and text.generate('abc') == text.generate(['abc'])
    assert tags.extract_entities('Ann met') == tags.extract_entities(['Ann met'])
    for model in (classes, tags, pairs, text):
        for wrong, message in (
            (None, 'The inputs are None; give a text or a list of texts'),
            ([None], 'Input 0 is None, not a text'),
            (['a', 1], r'Input 1 is 1 \(a int\), not a text'),
            ([float('nan')], r'Input 0 is nan \(a float\)'),
            ([b'a'], 'Input 0 is b.a. '),
            ([['a', None]], 'Input 0, part 1, is None'),
        ):
            with pytest.raises(UserError, match=message):
                model.predict(wrong)
        assert model.predict([]) == []
    for model in (classes, tags, pairs):
        for empty in ('', ' \n', '\u3000'):
            with pytest.raises(UserError, match=r'Input 1.* is empty'):
                model.predict(['a', empty])
    with pytest.raises(UserError, match='Input 1, part 1, is empty'):
        classes.predict(['a', 'b'], ['c', ''])
    with pytest.raises(UserError, match='Input 0 is empty'):
        tags.predict([[]])
    assert text.generate(['']) == text.generate('')  # of a language model the beginning of a new text
    for model, kind in ((classes, 'pair of texts'), (tags, 'list of words')):
        with pytest.raises(UserError, match=rf"Input 0 is {{'text': 'a'}}; give a text or a {kind}"):
            model.predict({'text': 'a'})
    with pytest.raises(UserError, match=r"The input \['a'\] is neither a text nor a dict of the columns q"):
        pairs.predict([['a']])
    with pytest.raises(UserError, match=r"Input 0 is \{'a': 'b'\}; this model continues texts"):
        text.generate([{'a': 'b'}])
    with pytest.raises(UserError, match='Input 0 is None'):
        text.generate([None])


WRONG = {
    'classes': (
        lambda: labelled(names=['a', 'b']),
        LabelPredictor(SingleLabel()),
        Head(2),
        'to label texts; use predict',
    ),
    'tags': (
        lambda: TaggedText(TaggedTable(None, names=TAGS), {'inputs': 16}, 'bytes'),
        TagPredictor(),
        Head(3, pooling='none'),
        'to tag words; use extract_entities',
    ),
    'text': (lambda: conversations(None), LanguageModelPredictor(), None, 'on text alone; use generate'),
}


@pytest.mark.parametrize('kind', WRONG)
def test_the_wrong_method_names_the_right_one(trained, kind):
    data, predictor, head, message = WRONG[kind]
    model = trained(data(), predictor, head)
    calls = {'extract_entities': model.extract_entities, 'generate': model.generate, 'score': model.score}
    for name, call in calls.items():
        if name != predictor.method and not (name == 'score' and isinstance(predictor, Generator)):
            with pytest.raises(UserError, match=rf'{name}: this model was trained {message}\(\.\.\.\)'):
                call(['text'])


def line(text):
    return Row({'text': text}, 'in.txt, line 3', is_line=True)


def test_a_line_is_the_text_whatever_the_column_was_called(trained):
    labels = trained(labelled(names=['no', 'yes'], text_column='sentence'), LabelPredictor(SingleLabel()), Head(2))
    tags = trained(TaggedText(TaggedTable(None, names=TAGS), {'inputs': 32}, 'bytes'), TagPredictor(), Head(3))
    pairs = trained(conversations(PairTable(None, input='say: {english}')), TextToTextPredictor())
    chats, plain = (trained(conversations(Dialogues(None)), kind()) for kind in (ChatPredictor, LanguageModelPredictor))
    for model in (labels, tags, pairs, chats, plain):
        assert model.predictor.parse(model, line('hello')) == 'hello'
        with pytest.raises(UserError, match=r'in.txt, line 3: .*empty'):
            model.predictor.parse(model, line(' '))
        with pytest.raises(UserError, match=r'character \d is \\ud83d'):
            model.predict(['x\ud83d'])
    assert pairs.predictor.prompt(pairs, 'hello') == (0, *pairs.data.vocabulary.encode('say: hello'), 1)
    both = trained(labelled(names=['no', 'yes'], second_text_column='b'), LabelPredictor(SingleLabel()), Head(2))
    with pytest.raises(UserError, match=r"a line is one text, but this model reads pairs.* 'text' and 'b'"):
        both.predictor.parse(both, line('hello'))


def test_advice_names_only_macros_of_the_head(trained):
    labels = trained(labelled(names=['no', 'yes'], text_column='sentence'), LabelPredictor(SingleLabel()), Head(2))
    with pytest.raises(UserError, match=r"no column 'sentence'.*--gin.TEXT_COLUMN=\.\.\."):
        labels.predictor.parse(labels, row(txt='x'))
    tags = trained(TaggedText(TaggedTable(None, names=TAGS), {'inputs': 32}, 'bytes'), TagPredictor(), Head(3))
    plain = trained(conversations(Dialogues(None)), LanguageModelPredictor())
    for model in (tags, plain):
        for given in (row(txt='x'), Row({'7': 'x', 'A sentence as a name.': 'y'}, 'in.csv, line 2')):
            with pytest.raises(UserError, match=r"no column 'text'.*Rename yours") as caught:
                model.predictor.parse(model, given)
            assert '--gin' not in str(caught.value)


def test_words_of_a_list_are_words(trained):
    data = TaggedText(TaggedTable(None, names=TAGS), {'inputs': 32}, 'bytes', separator='')
    model = trained(data, TagPredictor(), Head(3, pooling='none'))
    model.params['head']['bias'] = np.array([-9, 9, 0], np.float32)  # every word is an entity
    (entities,) = model.predict([['New-York', '北京', '\u3000']])
    assert [(e['text'], e['start'], e['end']) for e in entities] == [
        ('New-York', 0, 8),
        ('北京', 8, 10),
        ('\u3000', 10, 11),
    ]
