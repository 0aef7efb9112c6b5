"""A finished run in Python: `load('runs/finetuned').predict(['...'])`."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from palm_jax.command_line import load_configuration
from palm_jax.errors import UserError
from palm_jax.inference.generate import Sampler
from palm_jax.peft.method import Adapted
from palm_jax.peft.trainable import join
from palm_jax.training import loop, pretrained
from palm_jax.training.checkpoints import fingerprint, restore_params
from palm_jax.training.head_losses import scores_of
from palm_jax.training.state import init_params, unbox


@dataclasses.dataclass(frozen=True)
class Trained:
    """A model with its parameters and its vocabulary.

    Attributes:
      model: with its methods attached.
      params: all of them, on the default device.
      data: of the run: `vocabulary`, `length` and, of a head, `labels`.
      kind: of a head's labels: `class`, `labels` or `number`; None of a language model.
    """

    model: Adapted
    params: Any
    data: Any
    kind: str | None

    def write(self, prompts: Sequence[str], sampler: Sampler = Sampler()) -> list[str]:
        """Continuations of prompts."""
        return sampler(self.model, self.params, self.data.vocabulary, prompts, self.data.length)

    def predict(self, texts: Sequence[str], second_texts: Sequence[str] | None = None, batch_size: int = 32) -> list:
        """What the head says of texts, or of pairs of texts.

        Returns:
          For every text a dict of probabilities by label, the likeliest first; of a number, the number.
        """
        if self.kind is None:
            raise UserError('This run trained a language model, which has no head to predict with.')
        features, _ = self.data.inputs(list(zip(texts, second_texts or [None] * len(texts), strict=True)))
        results = []
        for first in range(0, len(texts), batch_size):
            rows = np.minimum(np.arange(first, first + batch_size), len(texts) - 1)  # the last batch repeats its end
            batch = {name: values[rows] for name, values in features.items()}
            results.append(np.asarray(_scores(self.model, self.params, batch))[: len(texts) - first])
        scores = np.concatenate(results) if results else np.zeros((0, max(len(self.data.labels), 1)))
        if self.kind == 'number':
            return scores[:, 0].tolist()
        p = np.asarray(jax.nn.softmax(scores) if self.kind == 'class' else jax.nn.sigmoid(scores))
        named = [dict(zip(self.data.labels, row.tolist(), strict=True)) for row in p]
        return [dict(sorted(row.items(), key=lambda item: -item[1])) for row in named]


_scores = jax.jit(scores_of, static_argnums=0)


def load(model_dir: str | Path) -> Trained:
    """The model of a run, from its MODEL_DIR; of an adapter, with the base that it was trained on.

    Raises:
      UserError: what the run was made of is not where it was, or the base is another one.
    """
    arguments = load_configuration('loop.train', [str(Path(model_dir) / 'config.gin')], []).build('loop.train')
    adaptation = {name: arguments[name] for name in loop.ADAPTATION if name in arguments}
    model, selection = loop.adapt(arguments['model'], **adaptation)
    data, about = arguments['data'], pretrained.read_about(pretrained.step_directory(str(model_dir)))
    ours = {'vocabulary': data.vocabulary.fingerprint}
    fresh = jax.jit(lambda rng: unbox(init_params(model, rng)))(jax.random.key(0))
    if about.get('base') is None:
        params = restore_params(str(model_dir), fresh, ours)
    else:
        base = restore_params(arguments['initial_checkpoint'], fresh, ours, model.trainable)
        trained, frozen = selection.split(base)
        if fingerprint(frozen) != about['base']:
            raise UserError(
                f'{model_dir} was trained on top of the base {about["base"]}, '
                f'but {arguments["initial_checkpoint"]} now holds {fingerprint(frozen)}.'
            )
        params = join(restore_params(str(model_dir), trained, ours), frozen)
    kind = getattr(getattr(data, 'table', None), 'kind', None)
    return Trained(model, params, data, kind)
