"""PaLM in float64 NumPy, written from the paper with loops, sharing no code with the product."""

import numpy as np


def norm(x, scale, kind, eps):
    if kind == 'layernorm':
        x = x - x.mean(-1, keepdims=True)
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + eps) * scale


def frequency(i, size, arch):
    """Angle per position of pair i, with Llama 3.1's published rule for long wavelengths."""
    f = arch.rope_theta ** (-2 * i / size)
    if arch.rope_scaling == 'linear':
        return f / arch.rope_factor
    if arch.rope_scaling is None:
        return f
    low, high, old = arch.rope_low_frequency_factor, arch.rope_high_frequency_factor, arch.rope_original_length
    wavelength = 2 * np.pi / f
    if wavelength < old / high:
        return f
    if wavelength > old / low:
        return f / arch.rope_factor
    smooth = (old / wavelength - low) / (high - low)
    return (1 - smooth) * f / arch.rope_factor + smooth * f


def rope(x_LK, angles_k, xpos=0.0):
    """Rotates by `angles_k` per position."""
    length, size = x_LK.shape
    out = np.empty_like(x_LK)
    for position in range(length):
        for i in range(size // 2):
            angle = position * angles_k[i]
            decay = ((2 * i + 0.4 * size) / (1.4 * size)) ** (position * xpos)
            a, b = x_LK[position, i], x_LK[position, i + size // 2]
            out[position, i] = (a * np.cos(angle) - b * np.sin(angle)) * decay
            out[position, i + size // 2] = (b * np.cos(angle) + a * np.sin(angle)) * decay
    return out


def attention(p, i, h, arch):
    group = arch.num_heads // arch.num_kv_heads
    y = 0
    for head in range(arch.num_heads):
        q = h @ p['attn']['qkv']['q'][i][:, head]
        k = h @ p['attn']['qkv']['k'][i][:, head // group]
        v = h @ p['attn']['qkv']['v'][i][:, head // group]
        if arch.qkv_bias:
            bias = p['attn']['qkv_bias']
            q, k, v = q + bias['q'][i, head], k + bias['k'][i, head // group], v + bias['v'][i, head // group]
        if arch.qk_norm:
            q = norm(q, p['attn']['q_norm']['scale'][i], arch.norm, arch.norm_epsilon)
            k = norm(k, p['attn']['k_norm']['scale'][i], arch.norm, arch.norm_epsilon)
        xpos = 0 if arch.xpos_scale_base is None else 1 / arch.xpos_scale_base
        size, is_rotated = arch.head_dim, i not in arch.unrotated_layers
        angles = [frequency(n, size, arch) * is_rotated for n in range(size // 2)]
        score = rope(q, angles, xpos) @ rope(k, angles, -xpos).T / np.sqrt(arch.head_dim)
        score[np.triu_indices(len(h), 1)] = -np.inf
        if arch.window is not None and i not in arch.global_layers:
            score[np.tril_indices(len(h), -arch.window)] = -np.inf
        weight = np.exp(score - score.max(-1, keepdims=True))
        y = y + weight / weight.sum(-1, keepdims=True) @ v @ p['attn']['out']['kernel'][i][head]
    return y


def mlp(p, i, h, arch):
    gate, up = h @ p['mlp']['in']['gate'][i], h @ p['mlp']['in']['up'][i]
    if arch.mlp_gate == 'gelu':
        active = gate / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (gate + 0.044715 * gate**3)))
    else:
        active = gate / (1 + np.exp(-gate))
    return (active * up) @ p['mlp']['out']['kernel'][i]


def logits(params, tokens_L, arch):
    """Float64 logits [L, V] of one sequence."""
    embedding, p = params['embed']['embedding'].astype(np.float64), params['stack']
    x = embedding[tokens_L] * arch.embedding_scale
    for i in range(arch.num_layers):
        h = norm(x, p['norm']['scale'][i], arch.norm, arch.norm_epsilon)
        if arch.parallel:
            x = x + mlp(p, i, h, arch) + attention(p, i, h, arch)
        else:
            x = x + attention(p, i, h, arch)
            x = x + mlp(p, i, norm(x, p['mlp_norm']['scale'][i], arch.norm, arch.norm_epsilon), arch)
    if arch.final_norm:
        x = norm(x, params['final_norm']['scale'], arch.norm, arch.norm_epsilon)
    output = embedding if arch.shared_embedding else params['embed']['output']
    return x @ output.T * (arch.d_model**-0.5 if arch.logit_scale is None else arch.logit_scale)
