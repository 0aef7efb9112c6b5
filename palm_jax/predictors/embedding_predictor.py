"""Embeddings of texts as a kind of task."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from palm_jax.data.readers import columns
from palm_jax.data.readers.row import Row
from palm_jax.errors import UserError
from palm_jax.explanations.explainable import Explainable
from palm_jax.inference.embeddings import Pooling, embed_features, embeddings
from palm_jax.predictors.predictor import Model


@dataclasses.dataclass(frozen=True)
class EmbeddingPredictor:
    """Embeds texts; the data is `Sentences`, or has its `tokens`, `table`, `length` and `bidirectional`.

    Attributes:
      pooling: feature of a text, see `models.heads.Head`.
    """

    pooling: Pooling = 'mean'

    kind = 'embed'
    endpoint = '/v1/embeddings'
    method = 'embed'
    purpose = 'to embed texts'
    features = ('decoder_input_tokens', 'decoder_segment_ids')

    def parse(self, model: Model, row: Row) -> str:
        """Return the text of a row."""
        return columns.text(row, model.data.table.text_column, 'TEXT_COLUMN')

    def reads_pairs(self, model: Model) -> bool:
        """Return False: a text is embedded alone."""
        del model
        return False

    def predict(self, model: Model, inputs: Sequence[str], batch_size: int = 32, first: int = 0) -> list[np.ndarray]:
        """Return the embedding of each text, float32 [D] of length 1."""
        del first
        for number, text in enumerate(inputs):
            if not isinstance(text, str):
                raise UserError(f'Input {number} is {text!r}; give a text.')
        data = model.data
        ids = [data.tokens(text)[0] for text in inputs]
        found = embeddings(model.model, model.params, ids, data.length, self.pooling, data.bidirectional, batch_size)
        return list(found)

    def explainables(
        self, model: Model, inputs: Sequence[str], labels: Sequence[str | None], batch_size: int = 32
    ) -> list[list[Explainable]]:
        """Refuse every input: an embedding is a vector, and words contribute to a single number."""
        del model, inputs, labels, batch_size
        raise UserError(
            'This model embeds texts: an embedding is a vector, and words contribute to a single number. Explain a '
            'model that predicts labels, numbers, tags or text.'
        )

    def check_label(self, model: Model, label: Any) -> None:
        """Refuse every label: an embedding has none."""
        del model, label
        raise UserError('This model embeds texts; its answers have no label. Send a rating or a comment.')

    def to_json(self, prediction: np.ndarray) -> dict[str, Any]:
        """Return `embedding`, a list of numbers."""
        return {'embedding': prediction.tolist()}

    def to_response(self, prediction: np.ndarray) -> dict[str, Any]:
        """Return the fields of `response_bodies.Embedding`."""
        return self.to_json(prediction)

    def apply(
        self,
        model: Any,
        params: Any,
        tokens_BL: jax.Array,
        segment_ids_BL: jax.Array,
        causal_attention_BL: jax.Array | None = None,
    ) -> jax.Array:
        """Return the normalized embeddings, float32 [B, D]."""
        is_bidirectional = causal_attention_BL is not None
        return embed_features(model, params, tokens_BL, segment_ids_BL, self.pooling, is_bidirectional)
