"""Logits, loss and gradients against Transformers: a PaLM block is Cohere's with one key/value head."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from palm_jax.training import losses

torch = pytest.importorskip('torch', reason='the peers are not installed: pip install "palm_jax[peers]"')
transformers = pytest.importorskip('transformers')


def interleave(kernel):
    """Our half-split rotary pairs (i, i + K/2) as Cohere's neighbours (2i, 2i + 1), along the last axis."""
    first, second = np.split(np.asarray(kernel), 2, axis=-1)
    return np.stack([first, second], axis=-1).reshape(kernel.shape)


def cohere(model, params):
    arch = model.arch
    config = transformers.CohereConfig(
        vocab_size=arch.vocab_size,
        hidden_size=arch.d_model,
        num_hidden_layers=arch.num_layers,
        num_attention_heads=arch.num_heads,
        num_key_value_heads=arch.num_kv_heads,
        head_dim=arch.head_dim,
        intermediate_size=arch.hidden_dim,
        hidden_act='silu',
        logit_scale=arch.output_scale,
        layer_norm_eps=arch.norm_epsilon,
        use_qk_norm=False,
        attention_bias=False,
        tie_word_embeddings=True,
        rope_parameters={'rope_type': 'default', 'rope_theta': arch.rope_theta},
        pad_token_id=None,
    )
    theirs = transformers.CohereForCausalLM(config).float().eval()
    with torch.no_grad():
        for name, value in to_cohere(params).items():
            parameter = theirs.get_parameter(name)
            parameter.copy_(torch.from_numpy(np.array(value)).reshape(parameter.shape))
    return theirs


def to_cohere(tree):
    """Our parameters (or gradients) under Cohere's names: [out, in] matrices, rotary pairs interleaved."""
    stack, out = tree['stack'], {}
    out['model.embed_tokens.weight'] = np.asarray(tree['embed']['embedding'])
    out['model.norm.weight'] = np.asarray(tree['final_norm']['scale'])
    for i in range(len(stack['norm']['scale'])):
        layer, d = f'model.layers.{i}.', stack['norm']['scale'].shape[1]
        qkv = stack['attn']['qkv']
        out[layer + 'input_layernorm.weight'] = np.asarray(stack['norm']['scale'][i])
        for name in ('q', 'k'):
            out[layer + f'self_attn.{name}_proj.weight'] = interleave(qkv[name][i]).reshape(d, -1).T
        out[layer + 'self_attn.v_proj.weight'] = np.asarray(qkv['v'][i]).reshape(d, -1).T
        out[layer + 'self_attn.o_proj.weight'] = np.asarray(stack['attn']['out']['kernel'][i]).reshape(-1, d).T
        out[layer + 'mlp.gate_proj.weight'] = np.asarray(stack['mlp']['in']['gate'][i]).T
        out[layer + 'mlp.up_proj.weight'] = np.asarray(stack['mlp']['in']['up'][i]).T
        out[layer + 'mlp.down_proj.weight'] = np.asarray(stack['mlp']['out']['kernel'][i]).T
    return out


def relative_error(ours, theirs):
    ours, theirs = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    return np.abs(ours - theirs).max() / np.abs(theirs).max()


SHAPES = {
    'H·K = d': {'d_model': 32, 'num_heads': 4, 'head_dim': 8},
    'H·K > d': {'d_model': 32, 'num_heads': 6, 'head_dim': 8},
    'H·K < d': {'d_model': 48, 'num_heads': 2, 'head_dim': 16},
    'grouped': {'d_model': 32, 'num_heads': 4, 'head_dim': 8, 'num_kv_heads': 2, 'rope_theta': 500_000.0},
}


@pytest.mark.parametrize('changes', SHAPES.values(), ids=SHAPES)
def test_logits_loss_and_gradients_equal_transformers(micro, tokens, changes):
    model, params = micro(**changes)
    theirs = cohere(model, params)
    ids = torch.from_numpy(tokens.astype(np.int64))
    logits = theirs(input_ids=ids).logits
    assert relative_error(model.apply({'params': params}, tokens), logits.detach()) < 1e-5

    # Their labels are shifted inside: position l predicts token l + 1.
    their_loss = theirs(input_ids=ids, labels=ids).loss
    their_loss.backward()
    weights = np.ones_like(tokens)
    weights[:, -1] = 0
    batch = {
        'decoder_input_tokens': tokens,
        'decoder_target_tokens': np.roll(tokens, -1, axis=1),
        'decoder_loss_weights': weights,
    }

    def loss(p):
        total, metrics = losses.LanguageModelLoss(z_loss=0.0, chunk_length=16)(model, p, batch)
        return total / metrics['loss'].count

    value, grads = jax.value_and_grad(loss)(jax.tree.map(jnp.asarray, params))
    assert abs(float(value) - their_loss.item()) / their_loss.item() < 1e-5
    for name, grad in to_cohere(grads).items():
        their_grad = theirs.get_parameter(name).grad
        assert relative_error(grad.reshape(their_grad.shape), their_grad) < 1e-5, name
