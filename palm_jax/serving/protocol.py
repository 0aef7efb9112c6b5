"""What is asked and answered: OpenAI's API for completions and chats, and two of our own for heads.

Fields that OpenAI has and this server does not honour are accepted at the values at which they
change nothing, and refused at others.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from palm_jax.inference.engine import MAX_LOGPROBS

Stop = Annotated[str, Field(min_length=1, max_length=200)]
TokenId = Annotated[int, Field(ge=0)]


class Body(BaseModel):
    """JSON of a request: nothing unknown, no text for a number."""

    model_config = ConfigDict(extra='forbid', strict=True)


class StreamOptions(Body):
    include_usage: bool = False


class GenerationRequest(Body):
    """How text is written; see `inference.generate.Sampler`."""

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
    frequency_penalty: Literal[0] | Literal[0.0] | None = None
    presence_penalty: Literal[0] | Literal[0.0] | None = None
    logit_bias: None = None

    @property
    def stops(self) -> tuple[str, ...]:
        """The stop strings."""
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())


class CompletionRequest(GenerationRequest):
    prompt: str | Annotated[list[str] | list[TokenId] | list[list[TokenId]], Field(min_length=1, max_length=64)]
    max_tokens: int | None = Field(16, ge=1)
    logprobs: int | None = Field(None, ge=0, le=MAX_LOGPROBS)
    echo: Literal[False] | None = False
    best_of: Literal[1] | None = None
    suffix: None = None


class Message(Body):
    role: Literal['system', 'developer', 'user', 'assistant']
    content: str
    name: str | None = None


class ChatRequest(GenerationRequest):
    messages: Annotated[list[Message], Field(min_length=1, max_length=1000)]
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    logprobs: bool | None = False
    top_logprobs: int | None = Field(None, ge=0, le=MAX_LOGPROBS)


class HeadRequest(Body):
    """Texts for a classifier, a scorer or a tagger."""

    model: str
    input: str | Annotated[list[str], Field(min_length=1, max_length=1024)]
    second_input: str | Annotated[list[str], Field(min_length=1, max_length=1024)] | None = Field(
        None, description='Of a model that reads pairs: the second text of each.'
    )


class Usage(BaseModel):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class TextLogprobs(BaseModel):
    tokens: list[str]
    token_logprobs: list[float]
    top_logprobs: list[dict[str, float]] | None
    text_offset: list[int]


class CompletionChoice(BaseModel):
    index: int
    text: str
    logprobs: TextLogprobs | None = None
    finish_reason: Literal['stop', 'length'] | None


class Completion(BaseModel):
    id: str
    object: Literal['text_completion'] = 'text_completion'
    created: int
    model: str
    choices: list[CompletionChoice]
    usage: Usage | None = None


class TopLogprob(BaseModel):
    token: str
    logprob: float
    bytes: list[int]


class TokenLogprob(TopLogprob):
    top_logprobs: list[TopLogprob]


class ChatLogprobs(BaseModel):
    content: list[TokenLogprob]


class ChatMessage(BaseModel):
    role: Literal['assistant'] = 'assistant'
    content: str
    refusal: None = None


class ChatChoice(BaseModel):
    index: int
    message: ChatMessage
    logprobs: ChatLogprobs | None = None
    finish_reason: Literal['stop', 'length']


class ChatCompletion(BaseModel):
    id: str
    object: Literal['chat.completion'] = 'chat.completion'
    created: int
    model: str
    choices: list[ChatChoice]
    usage: Usage


class Model(BaseModel):
    id: str
    object: Literal['model'] = 'model'
    created: int
    owned_by: str = 'palm_jax'
    kind: Literal['text', 'text to text', 'chat', 'classify', 'tag'] = Field(
        description='Our own: what the model was trained to do.'
    )


class Models(BaseModel):
    object: Literal['list'] = 'list'
    data: list[Model]


class Classified(BaseModel):
    index: int
    label: str | None = Field(description='The likeliest; null of a model that gives a number.')
    labels: list[str] = Field(description='All that are likelier than not, of a model of several labels a text.')
    probabilities: dict[str, float]
    number: float | None = None


class Classification(BaseModel):
    object: Literal['list'] = 'list'
    model: str
    data: list[Classified]


class Entity(BaseModel):
    type: str
    text: str
    start: int = Field(description='Place of its first character.')
    end: int


class Tagged(BaseModel):
    index: int
    entities: list[Entity]


class Tagging(BaseModel):
    object: Literal['list'] = 'list'
    model: str
    data: list[Tagged]


class Error(BaseModel):
    message: str
    type: str
    param: str | None = None
    code: str | None = None


class ErrorBody(BaseModel):
    error: Error


class Status(BaseModel):
    status: str
    details: dict[str, Any] = {}
