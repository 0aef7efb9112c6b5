"""What a run on text has memorized, by how often each sequence was seen."""

import json

import numpy as np

from palm_jax import api
from palm_jax.inference.generate import Sampler
from palm_jax.microscope.memorization import windows
from tests.support.programs import run_here


def test_sequences_are_grouped_by_how_often_they_were_seen(made, tmp_path):
    (tmp_path / 'canaries.txt').write_text('the square of 7 is 49.\n')
    page = tmp_path / 'page.html'
    result = run_here(
        'palm_jax.cli.memorization', f'--gin_file={made / "base" / "config.gin"}', '--tokens=16', '--examples=6',
        f'--canaries={tmp_path / "canaries.txt"}', '--others=20', f'--output={page}',
    )  # fmt: skip
    assert result.returncode == 0 and 'held out' in result.stdout and page.exists(), result.stderr
    found = json.loads(page.with_suffix('.json').read_text())
    groups = {g['times_seen']: g for g in found['by_times_seen']}
    assert groups.keys() == {'1', '0', 'held out'} and len(found['canaries']) == 1
    model = api.load(made / 'base')
    kept = windows(model, made / 'base', 6, 16)
    first = model.data.batch(0, 8)['decoder_target_tokens']  # two steps of four sequences were seen
    seen = {tuple(row[:16].tolist()) for row in first}
    assert all(window.prompt[1:] in seen for window in kept['1'])
    assert not any(window.prompt[1:] in seen for window in kept['0'])
    sampler = Sampler(max_tokens=16, temperature=0.0)
    for times, group in groups.items():
        prompts = [window.prompt for window in kept[times]]
        written = sampler.generate(*model.for_decoding, model.data.vocabulary, prompts, model.data.length)
        exact = [best.ids == w.target for (best, *_), w in zip(written, kept[times], strict=True)]
        assert group['exact'] == np.mean(exact) and group['count'] == len(kept[times]) <= 6
    long = run_here('palm_jax.cli.memorization', f'--gin_file={made / "base" / "config.gin"}')
    assert long.returncode == 2 and 'too few for --tokens=50' in long.stderr
