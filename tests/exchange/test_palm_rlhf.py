"""Imported weights of PaLM-rlhf-pytorch give the logits of its own package."""

import numpy as np
import pytest

from palm_jax.api.loading import load
from palm_jax.errors import UserError
from palm_jax.exchange import imports
from tests.support.published import PUBLISHED, published

torch = pytest.importorskip('torch')
palm_rlhf_pytorch = pytest.importorskip('palm_rlhf_pytorch', reason='pip install "palm_jax[peers]"')


@pytest.fixture(scope='module')
def tokenizer(tmp_path_factory):
    directory = tmp_path_factory.mktemp('tokenizer')
    published(directory, **PUBLISHED['grouped'])
    return directory / 'tokenizer.json'


def theirs(**options):
    torch.manual_seed(0)
    model = palm_rlhf_pytorch.PaLM(num_tokens=320, dim=48, depth=3, heads=4, dim_head=16, **options).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if 'gamma' in name:
                parameter.add_(0.1 * torch.randn(parameter.shape))
    return model


@torch.no_grad()
def test_logits_are_those_of_the_package(tokenizer, tmp_path):
    model = theirs()
    torch.save({'model': {f'palm.{name}': value for name, value in model.state_dict().items()}}, tmp_path / 'w.pt')
    imports.from_palm_rlhf(tmp_path / 'w.pt', tokenizer, tmp_path / 'ours')
    ours = load(tmp_path / 'ours')
    vocabulary = ours.data.vocabulary
    rows = np.r_[vocabulary.text.original_ids, np.arange(vocabulary.size, 320)]
    tokens = np.random.default_rng(0).integers(0, 320, (2, 60))
    expected = model(torch.from_numpy(rows[tokens])).numpy()[..., rows]
    logits = np.asarray(ours.model.apply({'params': ours.params}, tokens))
    np.testing.assert_allclose(logits, expected, atol=1e-4 * np.abs(expected).max(), rtol=0)
    assert isinstance(ours.generate(['the square'])[0], str)  # over the cache, too


@torch.no_grad()
def test_older_versions(tokenizer, tmp_path):
    """Norms stored with their unit offset, no norm before the logits, no buffers."""
    model = theirs()
    weights = {}
    for name, value in model.state_dict().items():
        if name.startswith('norm.') or 'rotary' in name or 'beta' in name:
            continue
        weights[name] = value + 1 if 'gamma' in name else value
    torch.save(weights, tmp_path / 'w.pt')
    with pytest.raises(UserError, match='--head_dim=128'):
        imports.from_palm_rlhf(tmp_path / 'w.pt', tokenizer, tmp_path / 'ours')
    imports.from_palm_rlhf(tmp_path / 'w.pt', tokenizer, tmp_path / 'ours', head_dim=16)
    ours = load(tmp_path / 'ours')
    assert not ours.model.arch.final_norm
    model.norm = torch.nn.Identity()
    tokens = np.random.default_rng(1).integers(0, 320, (2, 33))
    rows = np.r_[ours.data.vocabulary.text.original_ids, np.arange(ours.data.vocabulary.size, 320)]
    expected = model(torch.from_numpy(rows[tokens])).numpy()[..., rows]
    logits = np.asarray(ours.model.apply({'params': ours.params}, tokens))
    np.testing.assert_allclose(logits, expected, atol=1e-4 * np.abs(expected).max(), rtol=0)


def test_what_does_not_fit_is_said(tokenizer, tmp_path):
    weights = theirs().state_dict()
    weights['layers.1.fn.attn_out.weight'] = torch.zeros(48, 63)
    weights['layers.0.fn.lora.weight'] = weights.pop('layers.2.fn.ff_out.2.weight')
    torch.save(weights, tmp_path / 'w.pt')
    with pytest.raises(UserError) as error:
        imports.from_palm_rlhf(tmp_path / 'w.pt', tokenizer, tmp_path / 'ours')
    message = ' '.join(str(error.value).split())
    assert message.startswith('3 tensors of') and 'layers.2.fn.ff_out.2.weight missing (48, 192)' in message
    assert 'layers.1.fn.attn_out.weight (48, 63) (48, 64)' in message and 'no such tensor' in message
    torch.save(theirs(qk_rmsnorm=True).state_dict(), tmp_path / 'qk.pt')
    with pytest.raises(UserError, match='QK-norm'):
        imports.from_palm_rlhf(tmp_path / 'qk.pt', tokenizer, tmp_path / 'ours')
    torch.save({'code': np.sum}, tmp_path / 'code.pt')  # unpickling it would run something
    with pytest.raises(UserError, match='not a file of tensors only'):
        imports.from_palm_rlhf(tmp_path / 'code.pt', tokenizer, tmp_path / 'ours')
    with pytest.raises(UserError, match='no such file'):
        imports.from_palm_rlhf(tmp_path / 'nothing.pt', tokenizer, tmp_path / 'ours')
    assert not (tmp_path / 'ours').exists()
