"""`POST /v1/embeddings`, in the form of OpenAI's API."""

from __future__ import annotations

import base64
from collections.abc import Callable

import numpy as np
from fastapi import APIRouter

from palm_jax.api.embeddings import embed_ids, embedding_ids
from palm_jax.serving import errors, request_bodies, response_bodies
from palm_jax.serving.errors import Failure
from palm_jax.serving.forward_passes import ForwardPasses
from palm_jax.serving.models import ServedModel
from palm_jax.serving.screening import Screening


def routes(
    find: Callable[[str | None], ServedModel], passes: ForwardPasses, screening: Screening, max_batch: int
) -> APIRouter:
    """Return the routes.

    Args:
      find: returns the model of a name.
      passes: runs the forward passes.
      screening: rules about what is asked.
      max_batch: largest number of texts per forward pass.
    """
    router = APIRouter(tags=['embeddings'], responses={status: errors.DOCUMENTED[status] for status in (404, 429, 504)})

    def embed(model: ServedModel, inputs: list[str | list[int]]) -> tuple[np.ndarray, int]:
        encoded = [embedding_ids(model.model, given) for given in inputs]
        for number, (_, was_cut) in enumerate(encoded):
            if was_cut:
                longest = model.model.data.length
                raise Failure(400, f'Input {number} is longer than the {longest} tokens of the model.', param='input')
        ids = [ids for ids, _ in encoded]
        return embed_ids(model.model, ids, batch_size=max_batch), sum(map(len, ids))

    @router.post('/v1/embeddings')
    async def embeddings(body: request_bodies.EmbeddingRequest) -> response_bodies.Embeddings:
        """Embed texts; every model can, whatever it was trained for."""
        model = find(body.model)
        size = model.model.model.arch.d_model
        if body.dimensions not in (None, size):
            raise Failure(400, f'The embeddings of {model.name!r} have {size} dimensions.', param='dimensions')
        await screening.check_inputs(model, '/v1/embeddings', body.inputs, 'input')
        vectors, count = await passes(embed, model, body.inputs)
        return response_bodies.Embeddings(
            model=model.name,
            data=[
                response_bodies.Embedding(index=i, embedding=_encoded(vector, body.encoding_format))
                for i, vector in enumerate(vectors)
            ],
            usage=response_bodies.EmbeddingUsage(prompt_tokens=count, total_tokens=count),
        )

    return router


def _encoded(vector_D: np.ndarray, encoding_format: str) -> list[float] | str:
    if encoding_format == 'base64':
        return base64.b64encode(vector_D.astype('<f4').tobytes()).decode()
    return vector_D.tolist()
