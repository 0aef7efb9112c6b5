"""Fine-tuning and its result in Python, for notebooks and programs.

from palm_jax.api import trained_model

model = trained_model.finetune('text_data.csv', base='runs/tiny', model_dir='runs/mine', TRAIN_STEPS=300)
model.predict(['some text'])     # [{'a label': 0.93, ...}]
model.save('runs/mine_whole')    # stands alone, without its base
model = trained_model.load('runs/mine_whole')
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from palm_jax.checkpoint_metadata import CheckpointMetadata, read_metadata
from palm_jax.cli import train
from palm_jax.cli.command_line import load_configuration
from palm_jax.configuration.compose import compose
from palm_jax.data.supervised.labelled_text import LabelledText
from palm_jax.data.supervised.tagged_text import TaggedText
from palm_jax.data.supervised.text_to_text import TextToText
from palm_jax.errors import UserError
from palm_jax.inference import decoding
from palm_jax.inference.decoding import EOS_ID, START_ID
from palm_jax.inference.generate import Completion, Decoder, Sampler, encode_prompts
from palm_jax.inference.scoring import Likelihood, likelihoods
from palm_jax.metrics import entities
from palm_jax.parameters import merge_matching
from palm_jax.partitioning import MeshLayout
from palm_jax.peft.method import AdaptedModel
from palm_jax.peft.trainable import join
from palm_jax.run_directory import RunDirectory, find_checkpoint
from palm_jax.training.checkpoints import Checkpoints, fingerprint, restore_params
from palm_jax.training.head_losses import scores_of
from palm_jax.training.setup import adapt_from_arguments
from palm_jax.training.state import TrainState, init_params, unbox


def finetune(
    table: str | Path,
    base: str | Path,
    model_dir: str | Path,
    gin_files: Sequence[str] = ('gin/finetune_lora.gin',),
    **bindings: Any,
) -> Trained:
    """Fine-tunes on a table, as `python -m palm_jax.train` does; a run that is there is continued.

    Args:
      table: TRAIN_FILES.
      base: INITIAL_CHECKPOINT_PATH, a MODEL_DIR or a checkpoint.
      model_dir: MODEL_DIR: checkpoints, report and curves go there.
      gin_files: what `--gin_file` would name, in order.
      bindings: macros, as in `--gin.TRAIN_STEPS=300`.

    Raises:
      UserError: what the command would refuse.
    """
    of_run = {'TRAIN_FILES': str(table), 'INITIAL_CHECKPOINT_PATH': str(base), 'MODEL_DIR': str(model_dir)}
    flags = [f'--gin.{name}={value!r}' for name, value in (of_run | bindings).items()]
    code = train.main([*(f'--gin_file={name}' for name in gin_files), *flags])
    if code:
        raise UserError(f'The run was interrupted; what it had is in {model_dir}. Call finetune again to go on.')
    return load(model_dir)


def load(model_dir: str | Path, **bindings: Any) -> Trained:
    """The model of a run, from its MODEL_DIR; of an adapter, with the base that it was trained on.

    The tables of the run need not be there any more.

    Args:
      model_dir: MODEL_DIR of the run.
      bindings: macros of its configuration that are to be others, e.g. TEMPERATURE=0.0.

    Raises:
      UserError: there is no run, or its base is not where it was or another one.
    """
    return load_with(model_dir, [(name, repr(value)) for name, value in bindings.items()])


def load_with(
    model_dir: str | Path,
    changes: Sequence[tuple[str, str]],
    gin_files: Sequence[str] = (),
    known: dict[Path, Any] | None = None,
) -> Trained:
    """Load a model with bindings as gin text; see `load`.

    Args:
      model_dir: MODEL_DIR of the run.
      changes: (name, value as gin text) of bindings that override the run's configuration.
      gin_files: files that override the run's configuration.
      known: parameters of the checkpoints loaded by earlier calls, by path; this call adds its own. Adapters on one
        base share its arrays.

    Raises:
      UserError: there is no run, or its base has moved or changed.
    """
    known = {} if known is None else known
    checkpoint, config = find_checkpoint(model_dir, 'MODEL_DIR'), RunDirectory(model_dir).config
    if not config.is_file():
        raise UserError(f'{model_dir} has no {config.name}: it is not the MODEL_DIR of a run.')
    overlay = compose(['gin/runs/loaded.gin'], {'LOADED_MODEL_DIR': str(model_dir)})
    configuration = load_configuration('loop.train', [str(config), *gin_files], changes, overlay)
    arguments = configuration.build('loop.train')
    model, selection = adapt_from_arguments(arguments)
    data, ours = arguments['data'], CheckpointMetadata(arguments['data'].vocabulary.fingerprint)
    sampler = getattr(arguments['reporter'], 'sampler', None) or Sampler()
    fresh = _in_place(model, arguments.get('layout', MeshLayout()) if jax.device_count() > 1 else MeshLayout())
    metadata = read_metadata(checkpoint)
    if metadata.base is None:
        params = known[checkpoint] = restore_params(checkpoint, fresh, ours)
    else:
        base = _base(arguments['initial_checkpoint'], fresh, ours, model.trainable, known)
        part, frozen = selection.split(base)
        if fingerprint(frozen) != metadata.base:
            raise UserError(
                f'{model_dir} was trained on top of the base {metadata.base}, '
                f'but {arguments["initial_checkpoint"]} now holds {fingerprint(frozen)}.'
            )
        params = join(restore_params(checkpoint, part, ours), frozen)
    return Trained(model, params, data, config, sampler, checkpoint, arguments)


def _base(
    path: str | None, fresh: Any, ours: CheckpointMetadata, may_be_new: tuple[str, ...], known: dict[Path, Any]
) -> Any:
    """Return the parameters of an adapter's base; see `restore_params` for the first arguments.

    Args:
      known: parameters of checkpoints by path, which are used and added to.
    """
    checkpoint = find_checkpoint(path)
    if checkpoint in known and 'head' not in known[checkpoint]:
        return merge_matching(fresh, known[checkpoint])
    known[checkpoint] = restore_params(checkpoint, fresh, ours, may_be_new)
    return known[checkpoint]


def _in_place(model: AdaptedModel, layout: MeshLayout) -> Any:
    """Initial parameters, split over the devices as in the run."""
    mesh = layout.mesh()
    boxed = jax.eval_shape(lambda rng: init_params(model, rng), jax.random.key(0))
    layout.check(boxed, dict(mesh.shape))
    init = jax.jit(lambda rng: unbox(init_params(model, rng)), out_shardings=layout.shardings(boxed, mesh))
    return init(jax.random.key(0))


@dataclasses.dataclass(frozen=True)
class Trained:
    """A model with its parameters and its vocabulary.

    Attributes:
      model: with its methods attached.
      params: all of them, split over the devices as in the run.
      data: of the run: `vocabulary`, `length` and, of a head, `labels`.
      config: path of the run's config.gin.
      sampler: of the run, which writes where no other is given.
      checkpoint: where the parameters are from.
      run: what `loop.train` was called with: loss, reporter, layout, ...
    """

    model: AdaptedModel
    params: Any
    data: Any
    config: Path
    sampler: Decoder = Sampler()
    checkpoint: Path | None = None
    run: Mapping[str, Any] = dataclasses.field(default_factory=dict, repr=False)

    @functools.cached_property
    def for_decoding(self) -> tuple[Any, Any]:
        """Model and parameters as decoding wants them, see `decoding.unstack_layers`."""
        return decoding.unstack_layers(self.model, self.params, self.sampler.weights)

    def completions(
        self, prompts: Sequence[str], sampler: Decoder | None = None, first: int = 0
    ) -> list[list[Completion]]:
        """Continuations of every prompt, with their tokens and log-probabilities.

        Args:
          prompts: texts.
          sampler: how, see `generate.Sampler` and `beam.BeamSearch`; the run's own by default.
          first: number of the first prompt, which its random choices depend on.
        """
        encoded = encode_prompts(self.data.vocabulary, prompts, self.data.length)
        return self._written(encoded, sampler or self.sampler, False, first)

    def generate(self, prompts: Sequence[str], sampler: Decoder | None = None, first: int = 0) -> list[str]:
        """The first, or best, continuation of every prompt as text; arguments as of `completions`."""
        return [best.text for best, *_ in self.completions(prompts, sampler, first)]

    def score(self, pairs: Sequence[tuple[str, str]], batch_size: int = 32) -> list[Likelihood]:
        """How likely the model finds completions: (prompt, continuation) of each, or (input, answer)."""
        encode, data = self.data.vocabulary.encode, self.data
        if isinstance(data, TextToText):
            ids = [(data.asked(given), [*encode(text), EOS_ID]) for given, text in pairs]
        else:
            ids = [([START_ID, *encode(prompt)], encode(text)) for prompt, text in pairs]
        return likelihoods(self.model, self.params, ids, data.length, batch_size)

    def answer(self, inputs: Sequence[Any], sampler: Decoder | None = None, first: int = 0) -> list[str]:
        """What a model that was trained from text to text answers.

        Args:
          inputs: of each a text, or a dict of the columns that the template names; of a dialogue
            a message, or a list of all that have been exchanged, the newest last.
          sampler: the run's own by default, which is greedy where nothing binds TEMPERATURE.
          first: number of the first of them, which its random choices depend on.
        """
        data = self._expect(TextToText, 'answer', 'from text to text')
        sampler = sampler or self.sampler
        sampler = dataclasses.replace(sampler, max_tokens=min(sampler.max_tokens, data.target_length))
        prompts = [data.asked(given) for given in inputs]
        return [best.text for best, *_ in self._written(prompts, sampler, data.bidirectional, first)]

    def _written(self, prompts, sampler, bidirectional, first):
        return sampler.generate(
            *self.for_decoding, self.data.vocabulary, prompts, self.data.length, bidirectional, first
        )

    def predict(self, texts: Sequence[str], second_texts: Sequence[str] | None = None, batch_size: int = 32) -> list:
        """What the head says of texts, or of pairs of texts.

        Returns:
          For every text a dict of probabilities by label, the likeliest first; of a number, the number.
        """
        data = self._expect(LabelledText, 'predict', 'to label texts')
        features, _ = data.inputs(list(zip(texts, second_texts or [None] * len(texts), strict=True)))
        scores = self._scores(features, len(texts), batch_size)
        if data.table.kind == 'number':
            return [float(row[0]) for row in scores]
        as_p = jax.nn.softmax if data.table.kind == 'class' else jax.nn.sigmoid
        named = [dict(zip(data.labels, np.asarray(as_p(row)).tolist(), strict=True)) for row in scores]
        return [dict(sorted(row.items(), key=lambda item: -item[1])) for row in named]

    def find(self, texts: Sequence[str | Sequence[str]], batch_size: int = 32) -> list[list[dict[str, Any]]]:
        """The entities that a tagger finds.

        Args:
          texts: whole, or as words, which then are taken to stand a separator apart.
          batch_size: texts scored at one time.

        Returns:
          For every text a list of {'type', 'text', 'start', 'end'}: its characters are text[start:end].
        """
        data = self._expect(TaggedText, 'find', 'to tag words')
        texts = [text if isinstance(text, str) else data.separator.join(text) for text in texts]
        words = [data.words(text) for text in texts]
        features, places = data.inputs([[word.group() for word in row] for row in words])
        found = []
        scores = self._scores(features, len(texts), batch_size)
        for text, row, ends, score in zip(texts, words, places, scores, strict=True):
            tags = [data.labels[i] for i in score[ends].argmax(axis=-1)] if ends else []
            spans = [(e.type, row[e.first].start(), row[e.last - 1].end()) for e in entities.decode(tags)]
            found.append([{'type': t, 'text': text[start:end], 'start': start, 'end': end} for t, start, end in spans])
        return found

    def merged(self) -> Any:
        """The parameters that compute the same without methods.

        Raises:
          UserError: methods that compute what kernels cannot.
        """
        return self.model.merge(self.params) if self.model.methods else self.params

    def save(self, model_dir: str | Path) -> Path:
        """Write the whole model to a new MODEL_DIR, so that it no longer needs the base it was trained on.

        Methods are merged into the kernels if all of them can be; the model can then be loaded, trained further or
        used as a base (INITIAL_CHECKPOINT_PATH). Otherwise they are kept, and the model can only be loaded.

        Returns:
          The checkpoint's path.

        Raises:
          UserError: the directory holds a run.
        """
        run, params, parts = RunDirectory(model_dir), self.params, ['gin/runs/loaded.gin']
        if run.config.exists():
            raise UserError(f'{run} holds a run already; save to another directory.')
        if self.model.methods:
            with contextlib.suppress(UserError):  # of methods that compute what kernels cannot
                params = self.merged()
                parts.append('gin/peft/full.gin')
        metadata = CheckpointMetadata.of_model(self.model.arch, self.data.vocabulary.fingerprint, self.data.labels)
        checkpoints = Checkpoints(run.checkpoints, 1, metadata)
        checkpoints.save(TrainState(jnp.zeros((), jnp.int32), params, {}), 0)
        checkpoints.close()
        self.data.vocabulary.save(run.path)
        itself = dict.fromkeys(('MODEL_DIR', 'INITIAL_CHECKPOINT_PATH', 'LOADED_MODEL_DIR'), str(run))
        configuration = load_configuration('loop.train', [str(self.config)], [], compose(parts, itself))
        configuration.build('loop.train')
        run.config.write_text(configuration.text)
        return checkpoints.path(0)

    def _scores(self, features: Mapping[str, np.ndarray], count: int, batch_size: int) -> list[np.ndarray]:
        """The head's scores, an array a text."""
        results: list[np.ndarray] = []
        for first in range(0, count, batch_size):
            rows = np.minimum(np.arange(first, first + batch_size), count - 1)  # the last batch repeats its end
            batch = {name: values[rows] for name, values in features.items()}
            results.extend(np.asarray(_scores_of(self.model, self.params, batch))[: count - first])
        return results

    def _expect(self, kind: type, method: str, purpose: str) -> Any:
        if not isinstance(self.data, kind):
            others = {LabelledText: 'predict', TaggedText: 'find', TextToText: 'answer'}
            right = next((name for data, name in others.items() if isinstance(self.data, data)), 'write')
            raise UserError(f'{method}: this model was not trained {purpose}; use {right}(...).')
        return self.data


_scores_of = jax.jit(scores_of, static_argnums=0)
