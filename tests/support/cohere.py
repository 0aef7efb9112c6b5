"""Our parameters in Transformers' implementation of Cohere, whose block is PaLM's."""

import numpy as np
import pytest

torch = pytest.importorskip('torch', reason='the peers are not installed: pip install "palm_jax[peers]"')
transformers = pytest.importorskip('transformers')


def interleave(kernel):
    """Reorders the last axis from half-split rotary pairs (i, i + K/2) to Cohere's adjacent ones (2i, 2i + 1)."""
    first, second = np.split(np.asarray(kernel), 2, axis=-1)
    return np.stack([first, second], axis=-1).reshape(kernel.shape)


def cohere(model, params):
    """Builds a CohereForCausalLM in float32 with the parameters of a PaLM."""
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
    """Converts parameters (or gradients) to Cohere's names: [out, in] matrices, rotary pairs interleaved."""
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
    """Largest absolute difference over the largest absolute value of `theirs`."""
    ours, theirs = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    return np.abs(ours - theirs).max() / np.abs(theirs).max()
