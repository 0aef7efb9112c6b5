"""Bodies of requests and responses: OpenAI's API for completions and chats, and two endpoints of our own for heads.

Fields of OpenAI's API that this server does not support are accepted at the values that change nothing, and refused at
all others.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from palm_jax.inference.engine import MAX_LOGPROBS

Stop = Annotated[str, Field(min_length=1, max_length=200)]
TokenId = Annotated[int, Field(ge=0)]
Zero = Annotated[float, Field(ge=0, le=0)]
FinishReason = Literal['stop', 'length']


class Body(BaseModel):
    """JSON of a request: unknown fields and texts in place of numbers are errors."""

    model_config = ConfigDict(extra='forbid', strict=True)


class StreamOptions(Body):
    """Options of a streamed response.

    Attributes:
      include_usage: whether the last event holds the number of tokens.
    """

    include_usage: bool = False


class GenerationRequest(Body):
    """Fields that completions and chats share; see `inference.generate.Sampler` for those of sampling.

    Attributes:
      model: name of a served model.
      n: completions per prompt.
      seed: seed of the random choices; None draws one.
      stop: strings that end a completion and are left out of it.
      stream: whether to send server-sent events as text is generated.
      stream_options: options of the stream.
      user: ignored.
    """

    model: str
    temperature: float = Field(1.0, ge=0, le=10)
    top_p: float = Field(1.0, gt=0, le=1)
    top_k: int = Field(0, ge=0, le=1_000_000)
    min_p: float = Field(0.0, ge=0, le=1)
    repetition_penalty: float = Field(1.0, gt=0, le=10)
    n: int = Field(1, ge=1, le=16)
    seed: int | None = Field(None, ge=-(2**63), lt=2**63, description='The same seed gives the same text.')
    stop: Stop | Annotated[list[Stop], Field(max_length=8)] | None = None
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    user: str | None = None
    frequency_penalty: Zero | None = None
    presence_penalty: Zero | None = None
    logit_bias: None = None

    @property
    def stops(self) -> tuple[str, ...]:
        """Stop strings."""
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())

    @property
    def wants_usage(self) -> bool:
        """Whether a stream ends with the number of tokens."""
        return self.stream_options is not None and self.stream_options.include_usage


class CompletionRequest(GenerationRequest):
    """Request of /v1/completions.

    Attributes:
      prompt: a text, token ids, or a list of either.
      max_tokens: maximum length of a completion.
      logprobs: number of alternatives per token to return with their log-probabilities; None returns none.
    """

    prompt: str | Annotated[list[str] | list[TokenId] | list[list[TokenId]], Field(min_length=1, max_length=64)]
    max_tokens: int | None = Field(16, ge=1)
    logprobs: int | None = Field(None, ge=0, le=MAX_LOGPROBS)
    echo: Literal[False] | None = False
    best_of: Literal[1] | None = None
    suffix: None = None

    @property
    def prompts(self) -> list[Any]:
        """Prompts, each a text or token ids."""
        given = self.prompt
        return given if isinstance(given, list) and isinstance(given[0], str | list) else [given]


class Message(Body):
    """A message of a chat."""

    role: Literal['system', 'developer', 'user', 'assistant']
    content: str
    name: str | None = None


class ChatRequest(GenerationRequest):
    """Request of /v1/chat/completions.

    Attributes:
      messages: all messages so far, the newest last.
      max_tokens: maximum length of the answer; `max_completion_tokens` takes precedence.
      logprobs: whether to return the log-probability of each token.
      top_logprobs: number of alternatives per token to return besides.
    """

    messages: Annotated[list[Message], Field(min_length=1, max_length=1000)]
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    logprobs: bool | None = False
    top_logprobs: int | None = Field(None, ge=0, le=MAX_LOGPROBS)


class HeadRequest(Body):
    """Request of /v1/classify and /v1/tag: texts for a model with a head."""

    model: str
    input: str | Annotated[list[str], Field(min_length=1, max_length=1024)]
    second_input: str | Annotated[list[str], Field(min_length=1, max_length=1024)] | None = Field(
        None, description='For a model of text pairs: the second text of each.'
    )


class Usage(BaseModel):
    """Number of tokens of a request."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


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
    bytes: list[int]


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
    kind: str = Field(description="Kind of task: text, text to text, chat, classify, tag. Not in OpenAI's API.")
    endpoint: str = Field(description="Path that answers requests to the model. Not in OpenAI's API.")


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
