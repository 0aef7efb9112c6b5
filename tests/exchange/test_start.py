"""What begins a text: the start token that an imported base was trained with, or none, wherever texts become tokens."""

import numpy as np
import pytest

from palm_jax.api.loading import load
from palm_jax.data.pretraining.objectives import CausalLM, PrefixLM
from palm_jax.data.supervised.conversations import PairTable
from palm_jax.data.supervised.labelled_text import LabelledTable, LabelledText
from palm_jax.data.supervised.tagged_text import TaggedTable, TaggedText
from palm_jax.data.supervised.text_to_text import TextToText
from palm_jax.data.vocabulary.special_tokens import ExtendedVocabulary
from palm_jax.data.vocabulary.vocabularies import Bytes, HuggingFace
from palm_jax.exchange import hf_directory, imports
from palm_jax.inference.generate import Sampler
from palm_jax.serving.models import ServedModel
from palm_jax.special_ids import EOS_ID
from palm_jax.training.losses import LanguageModelLoss
from tests.support.random_models import made

torch = pytest.importorskip('torch', reason='the peers are not installed: pip install "palm_jax[hf]"')
transformers = pytest.importorskip('transformers')
Tokenizer = pytest.importorskip('tokenizers').Tokenizer
processors = pytest.importorskip('tokenizers').processors

TEXTS = ['the square of 3 is 9', 'naïve — 中文 😀', 'x', '  two  blanks\n']


@pytest.fixture(scope='module', params=[False, True], ids=['without', 'with'])
def base(request, tmp_path_factory):
    """(model of Transformers, its tokenizer, the imported model, whether texts begin with BOS)."""
    folder = tmp_path_factory.mktemp('base')
    theirs = made('Llama', {}, folder / 'theirs')
    if request.param:
        file = folder / 'theirs' / 'tokenizer.json'
        tokenizer = Tokenizer.from_file(str(file))
        tokenizer.post_processor = processors.TemplateProcessing('<BOS_TOKEN> $A', None, [('<BOS_TOKEN>', 5)])
        tokenizer.save(str(file))
    imports.from_hf(folder / 'theirs', folder / 'ours')
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder / 'theirs')
    return theirs, tokenizer, load(folder / 'ours', TEMPERATURE=0.0, MAX_NEW_TOKENS=7), request.param


def expected_logprobs(theirs, ids):
    """The log-probability of each token after the first."""
    with torch.no_grad():
        logprobs = theirs(torch.tensor([ids])).logits[0].log_softmax(-1).numpy()
    return [logprobs[i - 1, ids[i]] for i in range(1, len(ids))]


def test_the_probability_of_a_text_is_that_of_transformers(base):
    theirs, tokenizer, model, starts = base
    for text in TEXTS:
        ids = tokenizer(text)['input_ids']
        assert (ids[0] == tokenizer.bos_token_id) == starts
        (found,) = model.score([('', text)])
        np.testing.assert_allclose(found.logprobs, expected_logprobs(theirs, ids), atol=1e-4)
    (found,) = model.score([(TEXTS[0], ' and so on')])
    after = tokenizer(' and so on', add_special_tokens=False)['input_ids']
    whole = expected_logprobs(theirs, [*tokenizer(TEXTS[0])['input_ids'], *after])
    np.testing.assert_allclose(found.logprobs, whole[-len(after) :], atol=1e-4)
    nothing = model.score([('', ''), ('', 'x')])
    assert nothing[0].logprobs == () and len(nothing[1].logprobs) == starts


def test_the_loss_of_a_sequence_is_that_of_transformers(base):
    theirs, tokenizer, model, starts = base
    vocabulary, ids = model.data.vocabulary, tokenizer(TEXTS[1])['input_ids']
    tokens = np.array(vocabulary.encode(TEXTS[1]), np.int32)
    features = CausalLM()(tokens, 40, vocabulary, np.random.default_rng(0), None)
    _, metrics = LanguageModelLoss(z_loss=0.0)(model.model, model.params, {k: v[None] for k, v in features.items()})
    with torch.no_grad():
        expected = theirs(torch.tensor([ids]), labels=torch.tensor([ids])).loss.item()
    assert float(metrics['loss'].value()) == pytest.approx(expected, abs=1e-4)
    assert float(metrics['loss'].count) == len(ids) - 1 == len(tokens) - (not starts)
    # Documents that are kept apart are each predicted alone.
    pair = np.array([*tokens, EOS_ID, *tokens, EOS_ID], np.int32)
    features = CausalLM(isolate_documents=True)(pair, 90, vocabulary, np.random.default_rng(0), None)
    alone = CausalLM()(pair[: len(tokens) + 1], 90, vocabulary, np.random.default_rng(0), None)
    losses = [LanguageModelLoss(z_loss=0.0)(model.model, model.params, {k: v[None] for k, v in f.items()})[1]['loss']
              for f in (features, alone)]  # fmt: skip
    assert float(losses[0].count) == 2 * float(losses[1].count)
    assert float(losses[0].value()) == pytest.approx(float(losses[1].value()), rel=1e-5)


def test_a_prompt_is_continued_as_in_transformers(base):
    theirs, tokenizer, model, starts = base
    ids = tokenizer(TEXTS[0], return_tensors='pt').input_ids
    ((found, *_),) = model.completions([TEXTS[0]])
    with torch.no_grad():
        logits = theirs(ids).logits[0, -1].log_softmax(-1).numpy()
    drawn = model.data.vocabulary.text.original_ids[found.ids[0]]
    assert found.logprobs[0] == pytest.approx(logits[drawn], abs=1e-4)
    served = ServedModel('it', model)
    assert served.prompt(TEXTS[0]) == model.predictor.prompt(model, TEXTS[0])
    assert served.prompt([7, 8]) == ((0, 7, 8) if starts else (7, 8))
    # The beginning of a new text: an empty prompt is the beginning-of-text token, for lack of another.
    assert served.prompt('') == served.prompt([]) == (0,)
    assert isinstance(model.generate([''])[0], str)
    sampler = Sampler(temperature=0.0, max_tokens=3)
    assert sampler(*model.for_decoding, model.data.vocabulary, [''], 64) == model.generate([''], sampler)


def test_data_for_fine_tuning_begins_as_the_base_did(base, tmp_path):
    _, tokenizer, model, starts = base
    model.data.vocabulary.save(tmp_path)
    name = str(tmp_path / 'vocabulary.json')
    vocabulary = HuggingFace(name)
    assert vocabulary.start_ids == ((0,) if starts else ())
    (tmp_path / 't.csv').write_text('text,label\na b,x\nc,y\n' * 9)
    table = LabelledTable(str(tmp_path / 't.csv'))
    data = LabelledText(table, {'inputs': 12}, name)
    own = vocabulary.original_ids
    ids, _ = data.tokens('a b')
    assert own[ids].tolist() == [*tokenizer('a b')['input_ids'], tokenizer.eos_token_id]
    assert len(data.tokens('a' * 50)[0]) == 12
    tags = TaggedText(TaggedTable(None), {'inputs': 12}, name)
    features, (ends, none) = tags.inputs([['a', 'b'], []])
    assert features['decoder_input_tokens'][0, ends[0]] == vocabulary.encode('a')[0] and ends[0] == starts
    assert none == [] and features['decoder_segment_ids'][1].sum() == starts
    (tmp_path / 'p.csv').write_text('input,target\na b,c d\ne,f\n' * 9)
    for pack in (False, True):
        data = TextToText(PairTable(str(tmp_path / 'p.csv')), {'inputs': 8, 'targets': 8}, name, pack=pack)
        row, whole = data.first(), [*vocabulary.start_ids, *vocabulary.encode('a b'), EOS_ID]
        target = [*vocabulary.encode('c d'), EOS_ID]
        n = len(whole) + len(target) - 1
        assert list(data.prompt('a b')) == whole
        if not pack:
            assert row['decoder_input_tokens'].tolist() == [*whole, *target[:-1]] + [0] * (16 - n)
            assert row['decoder_target_tokens'][:n].tolist() == [*whole, *target][1:]
            assert row['decoder_loss_weights'].tolist() == [0] * (len(whole) - 1) + [1] * len(target) + [0] * (16 - n)
    both = TextToText(PairTable(str(tmp_path / 'p.csv')), {'inputs': 8, 'targets': 8}, name, bidirectional=True)
    assert both.first()['decoder_causal_attention'].sum() == len(whole)


def test_an_export_begins_texts_as_the_original(base, tmp_path):
    _, tokenizer, model, _ = base
    hf_directory.write(model.params, model.model.arch, model.data.vocabulary, 64, tmp_path / 'back')
    again = transformers.AutoTokenizer.from_pretrained(tmp_path / 'back')
    for text in TEXTS:
        assert again(text)['input_ids'] == tokenizer(text)['input_ids']
    assert again.bos_token == tokenizer.bos_token
    said = ExtendedVocabulary(HuggingFace(str(tmp_path / 'back' / 'tokenizer.json'), of_base=True))
    assert said.start_ids == model.data.vocabulary.start_ids and said.prefix_id == model.data.vocabulary.prefix_id


def test_a_vocabulary_of_ones_own_always_has_a_start(base, tmp_path):
    """What a run from scratch reads: every text begins with BOS, whatever its tokenizer does in Transformers."""
    base[1].save_pretrained(tmp_path)
    assert HuggingFace(str(tmp_path / 'tokenizer.json')).start_ids == Bytes().start_ids == (0,)
    tokens, vocabulary = np.array([5, 6, 7, EOS_ID, 8], np.int32), ExtendedVocabulary(Bytes())
    features = CausalLM(isolate_documents=True)(tokens, 6, vocabulary, np.random.default_rng(0), None)
    assert features['decoder_input_tokens'].tolist() == [0, 5, 6, 7, 0, 0]
    assert features['decoder_target_tokens'].tolist() == [5, 6, 7, EOS_ID, 8, 0]
    assert features['decoder_loss_weights'].tolist() == [1, 1, 1, 1, 1, 0]
    assert features['decoder_segment_ids'].tolist() == [1, 1, 1, 1, 2, 0]
    assert features['decoder_positions'].tolist() == [0, 1, 2, 3, 0, 0]
    features = PrefixLM(rate=0.4)(tokens, 6, vocabulary, np.random.default_rng(0), None)
    assert features['decoder_loss_weights'].tolist() == [0, 0, 0, 1, 1, 0]
    assert features['decoder_causal_attention'].tolist() == [1, 1, 1, 1, 0, 0]
