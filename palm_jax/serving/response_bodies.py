"""Bodies of responses: OpenAI's API for completions, chats and embeddings, and two endpoints of our own for heads."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, Field

FinishReason = Literal['stop', 'length', 'content_filter']


class EmbeddingUsage(BaseModel):
    """Number of tokens of a request for embeddings."""

    prompt_tokens: int
    total_tokens: int


class Embedding(BaseModel):
    """The embedding of a text, of length 1."""

    object: Literal['embedding'] = 'embedding'
    index: int
    embedding: list[float] | str = Field(description='Numbers, or float32 in base64.')


class Embeddings(BaseModel):
    """Response of /v1/embeddings."""

    object: Literal['list'] = 'list'
    model: str
    data: list[Embedding]
    usage: EmbeddingUsage


class PromptTokensDetails(BaseModel):
    """Parts of the number of tokens of a request's prompts."""

    cached_tokens: int = Field(description='First tokens of prompts that had been read for earlier requests.')


class Usage(BaseModel):
    """Number of tokens of a request."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails


class TextLogprobs(BaseModel):
    """Log-probabilities of a completion's tokens.

    Attributes:
      tokens: text of each token.
      token_logprobs: log-probability of each.
      top_logprobs: likeliest alternatives at each position, by text.
      text_offset: position of each token in the completion, in characters.
    """

    tokens: list[str]
    token_logprobs: list[float]
    top_logprobs: list[dict[str, float]] | None
    text_offset: list[int]


class CompletionChoice(BaseModel):
    """A completion, or a part of one in a stream."""

    index: int
    text: str
    logprobs: TextLogprobs | None = None
    finish_reason: FinishReason | None


class Completion(BaseModel):
    """Response of /v1/completions, and an event of its stream."""

    id: str
    object: Literal['text_completion'] = 'text_completion'
    created: int
    model: str
    choices: list[CompletionChoice]
    usage: Usage | None = None


class TopLogprob(BaseModel):
    """Log-probability of a token at a position of a chat's answer."""

    token: str
    logprob: float
    bytes: list[int] | None


class TokenLogprob(TopLogprob):
    """Log-probability of a token of a chat's answer, with the likeliest alternatives."""

    top_logprobs: list[TopLogprob]


class ChatLogprobs(BaseModel):
    """Log-probabilities of a chat's answer."""

    content: list[TokenLogprob]


class ChatMessage(BaseModel):
    """Answer of a chat."""

    role: Literal['assistant'] = 'assistant'
    content: str
    refusal: None = None


class ChatChoice(BaseModel):
    """One of the answers of a chat."""

    index: int
    message: ChatMessage
    logprobs: ChatLogprobs | None = None
    finish_reason: FinishReason


class ChatCompletion(BaseModel):
    """Response of /v1/chat/completions."""

    id: str
    object: Literal['chat.completion'] = 'chat.completion'
    created: int
    model: str
    choices: list[ChatChoice]
    usage: Usage


class Model(BaseModel):
    """A served model."""

    id: str
    object: Literal['model'] = 'model'
    created: int
    owned_by: str = 'palm_jax'
    kind: str = Field(description="Kind of task: text, text to text, chat, classify, tag, embed. Not in OpenAI's API.")
    endpoint: str = Field(description="Path that answers requests to the model. Not in OpenAI's API.")
    reads_pairs: bool = Field(description="Whether its inputs are pairs of texts. Not in OpenAI's API.")


class Models(BaseModel):
    """Response of /v1/models."""

    object: Literal['list'] = 'list'
    data: list[Model]


class Classified(BaseModel):
    """Labels of a text, or a number for it."""

    index: int
    label: str | None = Field(description='The likeliest label; null if the model predicts a number.')
    labels: list[str] = Field(description='All predicted labels: one, or those above 0.5 of a multi-label model.')
    probabilities: dict[str, float]
    number: float | None = None


class Classification(BaseModel):
    """Response of /v1/classify."""

    object: Literal['list'] = 'list'
    model: str
    data: list[Classified]


class Entity(BaseModel):
    """An entity in a text."""

    type: str
    text: str
    start: int = Field(description='Position of its first character.')
    end: int = Field(description='Position after its last character.')


class Tagged(BaseModel):
    """Entities of a text."""

    index: int
    entities: list[Entity]


class Tagging(BaseModel):
    """Response of /v1/tag."""

    object: Literal['list'] = 'list'
    model: str
    data: list[Tagged]


class Error(BaseModel):
    """What went wrong, as in OpenAI's API."""

    message: str
    type: str
    param: str | None = None
    code: str | None = None


class ErrorBody(BaseModel):
    """Response of a request that failed."""

    error: Error


class Status(BaseModel):
    """State of the server."""

    status: str
    details: dict[str, Any] = {}
