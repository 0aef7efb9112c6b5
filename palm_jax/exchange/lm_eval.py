"""lm-evaluation-harness on a trained model.

python -m palm_jax.exchange.lm_eval run --model palm_jax --model_args model_dir=runs/tiny --tasks hellaswag

accepts the arguments of `lm_eval`, with one more model (an entry point of the group `lm_eval.models` names it, but
lm-eval 0.4.13 does not look it up yet). In Python:
`lm_eval.simple_evaluate(model=palm_jax.exchange.lm_eval.PalmJax('runs/tiny'), tasks=[...])`.
"""

from __future__ import annotations

from typing import Any

try:
    from lm_eval import utils
    from lm_eval.api.model import TemplateLM
    from lm_eval.models.utils import normalize_gen_kwargs
except ImportError as error:
    raise ImportError(f'{error.name} is not installed: pip install "palm_jax[eval]"') from error

from palm_jax.api import loading
from palm_jax.inference.generate import Sampler
from palm_jax.inference.scoring import likelihoods
from palm_jax.special_ids import EOS_ID


class PalmJax(TemplateLM):
    """A language model for the harness: likelihoods of completions and of whole texts, and generation.

    Args:
      model_dir: MODEL_DIR of a run.
      batch_size: texts per forward pass; 32 for anything but a number, like the harness's `auto`.
      trust_modules: modules that the run may name besides those of palm_jax, joined by `+`; see `api.load`.
      options: further options that the harness passes to every model (device, ...); ignored.
    """

    def __init__(self, model_dir: str, batch_size: int | str = 32, trust_modules: str = '', **options: Any):
        super().__init__()
        del options
        self._model = loading.load(model_dir, trust_modules=[name for name in trust_modules.split('+') if name])
        self.batch_size = int(batch_size) if str(batch_size).isdigit() else 32
        self.max_length, self.max_gen_toks = self._model.data.length, min(256, self._model.data.length // 2)

    @property
    def eot_token_id(self) -> int:
        """Id of EOS."""
        return EOS_ID

    @property
    def prefix_token_id(self) -> int:
        """Id that an empty context stands for: BOS, or EOS if there is none."""
        return self._model.data.vocabulary.prefix_id

    @property
    def tokenizer_name(self) -> str:
        """Name of the tokenizer in the harness's caches."""
        return self._model.data.vocabulary.fingerprint

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **options: Any) -> list[int]:
        """Return ids as the exported tokenizer does: after the start token, unless `add_special_tokens` is False."""
        start = () if add_special_tokens is False else self._model.data.vocabulary.start_ids
        return [*start, *self._model.data.vocabulary.encode(string)]

    def _loglikelihood_tokens(self, requests, **options) -> list[tuple[float, bool]]:
        pairs = [(context, continuation) for _, context, continuation in requests]
        model, vocabulary = self._model, self._model.data.vocabulary
        found = likelihoods(model.model, model.params, pairs, self.max_length, self.batch_size, vocabulary)
        return [(likelihood.total, likelihood.is_greedy) for likelihood in found]

    def loglikelihood_rolling(self, requests, disable_tqdm: bool = False) -> list[float]:
        """Return the log-likelihoods of whole texts, in windows of the context length."""
        windows = [
            (number, ('', ''), *utils.make_disjoint_window(window))
            for number, request in enumerate(requests)
            for window in utils.get_rolling_token_windows(
                self.tok_encode(request.args[0]), self.prefix_token_id, self.max_length, 1
            )
        ]
        totals = [0.0] * len(requests)
        scores = self._loglikelihood_tokens([window[1:] for window in windows])
        for (number, *_), (total, _) in zip(windows, scores, strict=True):
            totals[number] += total
        return totals

    def generate_until(self, requests, disable_tqdm: bool = False) -> list[str]:
        """Continuations up to a stop text; of a context that is too long the beginning is left out."""
        results = [''] * len(requests)
        groups: dict[Sampler, list[int]] = {}
        for number, request in enumerate(requests):
            wanted = normalize_gen_kwargs(dict(request.args[1]), self.max_gen_toks)
            kept = {name: wanted[name] for name in ('top_p', 'top_k', 'min_p', 'repetition_penalty') if name in wanted}
            sampler = Sampler(
                max_tokens=wanted['max_gen_toks'],
                temperature=wanted['temperature'] if wanted.get('do_sample') else 0.0,
                stop=tuple(filter(None, wanted['until'])),
                batch_size=self.batch_size,
                **({'top_p': 1.0} | kept),
            )
            groups.setdefault(sampler, []).append(number)
        for sampler, numbers in groups.items():
            room = self.max_length - sampler.max_tokens
            assert room > 1, f'{sampler.max_tokens} tokens to write leave no room: the model reads {self.max_length}'
            prompts = [self.tok_encode(requests[number].args[0])[-room:] for number in numbers]
            written = sampler.generate(*self._model.for_decoding, self._model.data.vocabulary, prompts, self.max_length)
            for number, (best, *_) in zip(numbers, written, strict=True):
                results[number] = best.text
        return results
