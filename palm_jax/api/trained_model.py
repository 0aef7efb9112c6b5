"""A trained model in Python: its predictions, what it writes, its parameters and its copy without a base."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import jax
import jax.numpy as jnp
import numpy as np

from palm_jax.api import embeddings
from palm_jax.api.inputs import checked_inputs, checked_messages, in_pairs
from palm_jax.checkpoint_metadata import CheckpointMetadata
from palm_jax.configuration.compose import compose
from palm_jax.configuration.load import load as load_configuration
from palm_jax.configuration.trust import Trust
from palm_jax.errors import UserError
from palm_jax.explanations.explain import Explanation, Settings, explain
from palm_jax.inference import decoding
from palm_jax.inference.completion import Completion
from palm_jax.inference.embeddings import Pooling
from palm_jax.inference.generate import Decoder, Sampler
from palm_jax.inference.scoring import Likelihood, likelihoods
from palm_jax.models.quantization import dequantize_tree
from palm_jax.peft.method import AdaptedModel
from palm_jax.predictors.generator import Generator
from palm_jax.predictors.language_model_predictor import LanguageModelPredictor
from palm_jax.predictors.predictor import Predictor
from palm_jax.run_directory import RunDirectory, write_whole
from palm_jax.training.checkpoints import Checkpoints
from palm_jax.training.saving import kept_files
from palm_jax.training.state import TrainState
from palm_jax.wording import counted

_LOGGER = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class TrainedModel:
    """A model with its parameters, its vocabulary and its kind of task.

    `predict` and `embed` work for every kind of task; `generate`, `completions`, `chat` and `extract_entities` are for
    those that their names say.

    Attributes:
      model: module with its methods attached.
      params: its parameters, sharded as in the run.
      data: data of the run: `vocabulary`, `length` and, of a head, `labels`.
      config: path of the run's config.gin.
      predictor: kind of task: reads rows, predicts, and turns predictions into JSON.
      sampler: settings of the run for generating text.
      checkpoint: directory that the parameters were read from.
      run: arguments of `loop.train`: loss, reporter, layout, ...
      trust: what the configuration may name, see `load_with`.
    """

    model: AdaptedModel
    params: Any = dataclasses.field(repr=False)
    data: Any
    config: Path
    predictor: Predictor = LanguageModelPredictor()
    sampler: Decoder = Sampler()
    checkpoint: Path | None = None
    run: Mapping[str, Any] = dataclasses.field(default_factory=dict, repr=False)
    trust: Trust | None = Trust()

    @functools.cached_property
    def for_decoding(self) -> tuple[Any, Any]:
        """Model and parameters as decoding needs them, see `unstacked`."""
        return self.unstacked()

    def unstacked(self, known: dict[tuple[int, ...], Any] | None = None) -> tuple[Any, Any]:
        """Return model and parameters as decoding needs them; for `known` see `decoding.unstack_layers`."""
        return decoding.unstack_layers(self.model, self.params, self.sampler.weights, known)

    def predict(
        self, inputs: Sequence[Any], second_texts: Sequence[str] | None = None, batch_size: int = 32, first: int = 0
    ) -> list[Any]:
        """Return the model's prediction for each input.

        Args:
          inputs: texts, or one text; for text to text also dicts of the columns that the template names, for dialogues
            lists of messages, for taggers lists of words, for models of pairs also pairs of texts.
          second_texts: the second text of each pair.
          batch_size: inputs per forward pass of a head.
          first: number of the first input, on which the random choices for it depend.

        Returns:
          For classes a dict of probabilities by label, the likeliest first; for numbers a float; for tags a list of
          entities, see `extract_entities`; otherwise the generated text. One text gives a list of one.

        Raises:
          UserError: if an input is not of a kind that the model reads; the message gives its number.
        """
        inputs = checked_inputs(inputs)
        if second_texts is not None:
            inputs = in_pairs(inputs, checked_inputs(second_texts))
        return self.predictor.predict(self, inputs, batch_size=batch_size, first=first) if inputs else []

    def generate(self, inputs: Sequence[Any], sampler: Decoder | None = None, first: int = 0) -> list[str]:
        """Return the best completion of each input as text; see `completions`."""
        return [best.text for best, *_ in self._completions('generate', inputs, sampler, first)]

    def completions(
        self, inputs: Sequence[Any], sampler: Decoder | None = None, first: int = 0
    ) -> list[list[Completion]]:
        """Return the completions of each input, with tokens and log-probabilities.

        Args:
          inputs: prompts, or one prompt; for text to text also dicts of the columns that the template names, for
            dialogues a message each, or a list of all messages so far.
          sampler: `generate.Sampler` or `beam.BeamSearch`; None uses the run's settings.
          first: number of the first input, on which the random choices for it depend.

        Raises:
          UserError: if the model does not generate text, or an input is too long or incomplete.
        """
        return self._completions('completions', inputs, sampler, first)

    def _completions(
        self, method: str, inputs: Sequence[Any], sampler: Decoder | None, first: int
    ) -> list[list[Completion]]:
        generator, inputs = self._generator(method), checked_inputs(inputs)
        return generator.completions(self, inputs, sampler, first) if inputs else []

    def chat(self, messages: str | Sequence[Mapping[str, str]], sampler: Decoder | None = None) -> str:
        """Return the reply to the last message of a chat.

        Args:
          messages: a message of the user, or {'role', 'content'} of all messages so far: `system`, `user`, `assistant`.
          sampler: `generate.Sampler` or `beam.BeamSearch`; None uses the run's settings.

        Raises:
          UserError: if the model does not generate text, a message lacks something, the chat template of the base
            refuses them, or they leave no room for a reply.
        """
        generator, checked = self._generator('chat'), checked_messages(messages)
        ids, stop = generator.chat_prompt(self, checked)
        ((best, *_),) = generator.complete_ids(self, [ids], (sampler or self.sampler).stopping_at(stop))
        return best.text.lstrip() if stop else best.text

    def score(self, pairs: Sequence[tuple[Any, str]], batch_size: int = 32) -> list[Likelihood]:
        """Return the likelihood of the continuation in each (input, continuation).

        Raises:
          UserError: if the model does not generate text.
        """
        predictor = self._generator('score')
        ids = [(predictor.prompt(self, given), predictor.target(self, text)) for given, text in pairs]
        return likelihoods(self.model, self.params, ids, self.data.length, batch_size, self.data.vocabulary)

    def embed(self, texts: Sequence[str], pooling: Pooling | None = None, batch_size: int = 32) -> np.ndarray:
        """Return an embedding of each text, normalized to length 1: float32 [number of texts, D].

        Every kind of model has embeddings; gin/heads/embedding.gin trains for good ones. Texts that are too long are
        cut at their end, with a warning.

        Args:
          texts: texts, or one text.
          pooling: `mean`, `last` or `first` token; None takes that of the training, and the mean where it had none.
          batch_size: texts per forward pass.
        """
        if pooling not in (None, *get_args(Pooling)):
            raise UserError(f'pooling is {pooling!r}; possible: {", ".join(get_args(Pooling))}.')
        texts = checked_inputs(texts)
        for number, text in enumerate(texts):
            if not isinstance(text, str):
                raise UserError(f'Input {number} is {text!r}; give a text.')
        return embeddings.embed(self, texts, pooling, batch_size)

    def explain(
        self,
        inputs: Sequence[Any],
        labels: str | Sequence[str | None] | None = None,
        settings: Settings = Settings(),
    ) -> list[Explanation]:
        """Return what each word of each input contributes to the prediction for it.

        Args:
          inputs: texts, or whatever else `predict` reads; pairs of texts as tuples.
          labels: what is explained instead of the prediction: a class, a type of entity, or the text of an answer, one
            for all inputs or one for each.
          settings: methods, steps, baseline, batch size, and whether comprehensiveness and sufficiency are computed.

        Returns:
          An explanation for each input, by a tagger one for each entity that it finds; `Explanation.input` is the
          number of the input.

        Raises:
          UserError: if an input is not of a kind that the model reads, or there is no such label.
        """
        inputs = checked_inputs(inputs)
        names = [labels] * len(inputs) if labels is None or isinstance(labels, str) else list(labels)
        if len(names) != len(inputs):
            raise UserError(f'There are {counted(len(inputs), "input")}, but {counted(len(names), "label")}.')
        rows = self.predictor.explainables(self, inputs, names, settings.batch_size) if inputs else []
        return explain(self.model, self.params, rows, settings)

    def extract_entities(
        self, texts: Sequence[str | Sequence[str]], batch_size: int = 32
    ) -> list[list[dict[str, Any]]]:
        """Return the entities that a tagger finds in each text.

        Args:
          texts: texts, or lists of words, which are joined by the separator that the model was trained with.
          batch_size: texts per forward pass.

        Returns:
          For each text a list of {'type', 'text', 'start', 'end'}; the entity is text[start:end].

        Raises:
          UserError: if the model is not a tagger.
        """
        if self.predictor.method != 'extract_entities':
            raise self._unsuited('extract_entities')
        return self.predict(texts, batch_size=batch_size)

    def _generator(self, method: str) -> Generator:
        if not isinstance(self.predictor, Generator):
            raise self._unsuited(method)
        return self.predictor

    def _unsuited(self, method: str) -> UserError:
        """Return the error of a method that models of another kind have."""
        return UserError(
            f'{method}: this model was trained {self.predictor.purpose}; use {self.predictor.method}(...).'
        )

    @property
    def has_quantized_base(self) -> bool:
        """Whether the frozen linear maps of the base are in 8 or 4 bits."""
        return self.run.get('base_weights', 'stored') != 'stored'

    @property
    def dense_params(self) -> Any:
        """The parameters, those of a quantized base dequantized."""
        return dequantize_tree(self.params, self.model.arch.param_dtype)

    def merged(self) -> Any:
        """Return the parameters with all methods merged into the kernels, which are dequantized.

        Kernels are added up in float32 and then have the type in which the base is stored.

        Raises:
          UserError: if a method cannot be merged.
        """
        if not self.model.methods:
            return self.dense_params
        dtype = jnp.dtype(self.model.arch.param_dtype)
        whole = self.model.merge(
            jax.tree.map(lambda x: x.astype(jnp.float32), dequantize_tree(self.params, jnp.float32))
        )
        return {
            name: tree if name == 'head' else jax.tree.map(lambda x: x.astype(dtype), tree)
            for name, tree in whole.items()
        }

    def save(self, model_dir: str | Path, merged: Any = None) -> Path:
        """Write the whole model to a new MODEL_DIR, so that it no longer needs the base it was trained on.

        Methods are merged into the kernels if all of them can be; the model can then be loaded, trained further or
        used as a base (INITIAL_CHECKPOINT_PATH). Otherwise they are kept, and the model can only be loaded.

        Args:
          model_dir: directory to write.
          merged: parameters to write instead of `self.merged()`.

        Returns:
          The checkpoint's path.

        Raises:
          UserError: the directory holds a run.
        """
        run, parts = RunDirectory(Path(model_dir)), ['gin/runs/loaded.gin']
        params = self.dense_params if merged is None else merged
        if run.config.exists() or run.steps():
            raise UserError(f'{run} holds a run already; save to another directory.')
        if self.model.methods:
            with contextlib.suppress(UserError):  # of methods that compute what kernels cannot
                params = self.merged() if merged is None else merged
                parts.append('gin/peft/full.gin')
                if self.has_quantized_base:
                    from palm_jax.api import merging  # which evaluates models

                    _LOGGER.info(merging.change_of_score(self, params))
        metadata = CheckpointMetadata.of_model(self.model.arch, self.data.vocabulary.fingerprint, self.data.labels)
        files = kept_files('', self.data.vocabulary)
        checkpoints = Checkpoints(run.checkpoints, 1, metadata, files=files)
        checkpoints.save(TrainState(jnp.zeros((), jnp.int32), params, {}), 0)
        checkpoints.close()
        self.data.vocabulary.save(run.path)
        itself = dict.fromkeys(('MODEL_DIR', 'INITIAL_CHECKPOINT_PATH', 'LOADED_MODEL_DIR'), str(run))
        if self.has_quantized_base:
            itself['BASE_WEIGHTS'] = 'stored'
        configuration = load_configuration('loop.train', [str(self.config)], [], compose(parts, itself), self.trust)
        configuration.build('loop.train')
        write_whole(run.config, configuration.text)
        return checkpoints.path(0)
