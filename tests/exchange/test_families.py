"""Every family of models against Transformers with random weights: in, equal logits and gradients, out again."""

import dataclasses

import numpy as np
import pytest

from palm_jax.api.loading import load
from palm_jax.data.vocabulary.special_tokens import ExtendedVocabulary
from palm_jax.data.vocabulary.vocabularies import Bytes
from palm_jax.errors import UserError
from palm_jax.exchange import families, hf_config, hf_directory, imports, peft_directory
from palm_jax.inference.generate import Sampler, drawable_ids
from palm_jax.models.palm import Architecture
from palm_jax.peft.ia3 import IA3
from palm_jax.peft.lora import LoRA
from palm_jax.peft.method import AdaptedModel
from palm_jax.peft.prefix import Prefix
from palm_jax.peft.prompt import SoftPrompt
from tests.support.cohere import relative_error
from tests.support.models import applied, initial, loss_and_gradients, shaken
from tests.support.published import write_tokenizer
from tests.support.random_models import LLAMA3, ROWS, made

torch = pytest.importorskip('torch', reason='the peers are not installed: pip install "palm_jax[hf]"')
transformers = pytest.importorskip('transformers')

BYTES = ExtendedVocabulary(Bytes(), 11)
WINDOW = 7
LAYERS = ['sliding_attention', 'full_attention', 'sliding_attention']
FAMILIES = {
    'cohere, its own output': ('Cohere', {'tie_word_embeddings': False}),
    'cohere2': ('Cohere2', {'sliding_window': WINDOW, 'layer_types': LAYERS, 'num_key_value_heads': 1}),
    'llama 2': ('Llama', {'rms_norm_eps': 1e-5, 'num_key_value_heads': 4}),
    'llama 3.1': ('Llama', {'rope_parameters': LLAMA3, 'head_dim': 10}),
    'smollm2': ('Llama', {'tie_word_embeddings': True, 'rope_parameters': {'rope_type': 'default', 'rope_theta': 1e5}}),
    'linear': ('Llama', {'rope_parameters': {'rope_type': 'linear', 'rope_theta': 1e4, 'factor': 4.0}}),
    'mistral 0.1': ('Mistral', {'sliding_window': WINDOW}),
    'qwen2': ('Qwen2', {'tie_word_embeddings': True, 'rope_parameters': {'rope_type': 'default', 'rope_theta': 1e6}}),
    'qwen2 with windows': ('Qwen2', {'use_sliding_window': True, 'sliding_window': WINDOW, 'max_window_layers': 1}),
    'qwen3': ('Qwen3', {'head_dim': 12}),
    'gemma': ('Gemma', {'num_key_value_heads': 1, 'head_dim': 16}),
}


FAST = ('cohere2', 'llama 3.1', 'gemma')


@pytest.mark.parametrize(
    'family', [pytest.param(v, id=k, marks=() if k in FAST else pytest.mark.slow) for k, v in FAMILIES.items()]
)
def test_a_family_comes_in_computes_the_same_and_goes_back(family, tmp_path):
    kind, changes = family
    theirs = made(kind, changes, tmp_path / 'theirs')
    said = imports.from_hf(tmp_path / 'theirs', tmp_path / 'ours')
    assert 'logits     differ by at most' in said
    ours = load(tmp_path / 'ours')
    arch, vocabulary = ours.model.arch, ours.data.vocabulary
    rows = hf_directory.token_id_permutation(vocabulary, arch)
    tokens = np.random.default_rng(1).integers(2, ROWS, (2, 30)).astype(np.int32)
    ids = torch.from_numpy(rows[tokens])

    # Logits of whole rows, and of two segments that share a row with padding after them.
    with torch.no_grad():
        expected = theirs(ids).logits.numpy()[..., rows]
        parts = [theirs(part).logits.numpy()[..., rows] for part in (ids[:, :11], ids[:, 11:25])]
    assert relative_error(applied(ours.model, ours.params, tokens), expected) < 1e-5
    segments = np.repeat([[1] * 11 + [2] * 14 + [0] * 5], 2, axis=0).astype(np.int32)
    positions = np.repeat([[*range(11), *range(14), *range(5)]], 2, axis=0).astype(np.int32)
    packed = applied(ours.model, ours.params, tokens, positions, segments)
    assert relative_error(packed[:, :25], np.concatenate(parts, axis=1)) < 1e-5

    # Gradients of the loss of all parameters.
    theirs(ids, labels=ids).loss.backward()
    _, grads = loss_and_gradients(ours.model, ours.params, tokens)
    for tensor in families.family_of(theirs.config.model_type).tensors(arch):
        leaf = grads
        for key in tensor.path.split('/'):
            leaf = leaf[key]
        for number in range(arch.num_layers if tensor.is_layered else 1):
            one = leaf[number] if tensor.is_layered else leaf
            shift = tensor.export_layer(np.zeros(tensor.shape, np.float32))  # norms are stored minus one in Gemma
            grad = tensor.export_layer(one) - shift
            name = tensor.name.format(number)
            their_grad = theirs.get_parameter(name).grad.numpy()
            their_grad = their_grad[rows] if tensor.path.startswith('embed/') else their_grad
            assert relative_error(grad, their_grad) < 1e-5, name

    # Greedy decoding over the cache, past the window.
    (answer,) = Sampler(max_tokens=25, temperature=0.0).generate(*ours.for_decoding, vocabulary, [tokens[0, :5]], 64)[0]
    without_text = rows[~drawable_ids(vocabulary, arch.vocab_size)].tolist()  # are not drawn here
    out = theirs.generate(
        ids[:1, :5],
        attention_mask=torch.ones_like(ids[:1, :5]),
        max_new_tokens=25,
        do_sample=False,
        suppress_tokens=without_text,
    )
    assert rows[list(answer.ids)].tolist() == out[0, 5 : 5 + len(answer.ids)].tolist() and len(answer.ids) > WINDOW

    # Back, to the same class or one that computes the same.
    hf_directory.write(ours.params, arch, vocabulary, 64, tmp_path / 'back')
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / 'back', dtype=torch.float32).eval()
    assert type(again) is type(theirs)
    with torch.no_grad():
        np.testing.assert_allclose(again(ids).logits.numpy()[..., rows], expected, rtol=1e-5, atol=1e-5)
    state = again.state_dict()
    for name, tensor in theirs.state_dict().items():
        np.testing.assert_allclose(state[name].numpy(), tensor.numpy(), rtol=0, atol=1e-6, err_msg=name)


@pytest.mark.parametrize('dtype', ['bfloat16', 'float16', pytest.param('float64', marks=pytest.mark.slow)])
def test_weights_of_any_float_type_come_in(dtype, tmp_path):
    theirs = made('Llama', {}, tmp_path / 'float32').to(getattr(torch, dtype))
    theirs.save_pretrained(tmp_path / 'theirs')
    write_tokenizer(tmp_path / 'theirs')
    imports.from_hf(tmp_path / 'theirs', tmp_path / 'ours')
    model = load(tmp_path / 'ours')
    rows = hf_directory.token_id_permutation(model.data.vocabulary, model.model.arch)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / 'theirs', dtype=torch.float32).eval()
    assert hf_directory.compare_logits(theirs, model.params, model.model.arch, rows, 64).agree


def test_defaults_of_the_table_are_those_of_transformers():
    """A config.json that lacks a key means what Transformers takes it for."""
    for family in families.FAMILIES:
        kind = getattr(transformers, f'{family.name}Config')
        given = {'hidden_size': 2048, 'num_attention_heads': 32, 'num_hidden_layers': 8, 'intermediate_size': 64}
        settings = kind(vocab_size=99, **given)
        arch = hf_config.architecture({'model_type': family.model_type, 'vocab_size': 99, **given})
        assert arch.norm_epsilon == getattr(settings, family.epsilon_key), family
        assert arch.shared_embedding == settings.tie_word_embeddings, family
        assert arch.num_kv_heads == settings.num_key_value_heads, family
        assert arch.head_dim == (getattr(settings, 'head_dim', None) or 64), family
        assert arch.rope_theta == settings.rope_parameters['rope_theta'], family
        assert arch.output_scale == getattr(settings, 'logit_scale', 1.0), family
        assert hf_config.context_length({'model_type': family.model_type}) == settings.max_position_embeddings, family
        window = getattr(settings, 'sliding_window', None)
        assert arch.window == window, family
        if window and family.model_type == 'cohere2':
            assert arch.global_layers == arch.unrotated_layers == (3, 7)


def test_the_paper_is_cohere_and_what_no_family_has_is_named():
    arch = Architecture(vocab_size=9, num_layers=2, d_model=8, num_heads=2, head_dim=8)
    assert families.family_for(arch).model_type == 'cohere'
    serial = dataclasses.replace(arch, parallel=False, norm='rmsnorm', logit_scale=1.0)
    assert families.family_for(serial).model_type == 'llama'
    for changes, message in (
        ({'xpos_scale_base': 512.0}, r'Cohere does not support xpos_scale_base = 512\.0'),
        ({'mlp_gate': 'gelu'}, "Cohere does not support mlp_gate = 'gelu'"),
        ({'window': 1, 'global_layers': (1,)}, 'Cohere does not support window = 1'),
    ):
        with pytest.raises(UserError, match=message):
            families.family_for(dataclasses.replace(arch, **changes))


SERIAL = {'norm': 'rmsnorm', 'parallel': False, 'logit_scale': 1.0}
ADAPTED = {
    'llama, prefix': (SERIAL, Prefix(length=3)),
    'llama 3.1, lora': (
        SERIAL | {'rope_scaling': 'llama3', 'rope_factor': 8.0, 'rope_original_length': 32},
        LoRA(rank=2),
    ),
    'qwen2, dora': (SERIAL | {'qkv_bias': True, 'num_kv_heads': 2}, LoRA(rank=2, use_dora=True)),
    'gemma, prompt': (SERIAL | {'mlp_gate': 'gelu', 'embedding_scale': 24**0.5}, SoftPrompt(length=3)),
}


@pytest.mark.parametrize(
    'case',
    [pytest.param(v, id=k, marks=pytest.mark.slow if 'llama' in k else ()) for k, v in ADAPTED.items()],
)
def test_adapters_of_a_family_are_those_of_peft_and_merge(case, micro, tokens, tmp_path):
    changes, method = case
    model, _ = micro(vocab_size=BYTES.size, **changes)
    adapted = AdaptedModel(model, (method,))
    params = shaken(initial(adapted, seed=1))
    base = {name: tree for name, tree in params.items() if name != method.name}
    hf_directory.write(base, model.arch, BYTES, 64, tmp_path / 'base')
    assert 'differ by at most' in peft_directory.write(
        adapted, params, np.arange(BYTES.size), tmp_path / 'base', tmp_path / 'adapter'
    )
    if isinstance(method, LoRA):
        merged = applied(model, adapted.merge(params), tokens)
        assert relative_error(merged, applied(adapted, params, tokens)) < 1e-5


def test_biases_multiplied_by_peft_alone_are_refused(micro):
    model, _ = micro(**SERIAL, qkv_bias=True)
    adapted = AdaptedModel(model, (IA3(),))
    params = shaken(initial(adapted))
    with pytest.raises(UserError, match=r'multiply biases in peft, but not here'):
        peft_directory.attach(None, IA3(), params, model.arch)
