"""Bodies of requests: OpenAI's API for completions, chats and embeddings, and two endpoints of our own for heads.

What a request may hold is checked by `fields`; `unsupported` has the fields of OpenAI's API and of other servers that
are accepted at the values that change nothing.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, ValidationInfo, field_validator

from palm_jax.inference.requests import MAX_BIASES, MAX_LOGPROBS
from palm_jax.serving import fields
from palm_jax.serving.fields import Body, ignored, neutral, wrong
from palm_jax.serving.unsupported import UnsupportedChatFields, UnsupportedFields

ModelName = Annotated[str | None, fields.TEXT]
MaxTokens = Annotated[int | None, fields.MAX_TOKENS]
MAX_INPUTS = 1024
MAX_PROMPTS = 64


class StreamOptions(Body):
    """Options of a streamed response.

    Attributes:
      include_usage: whether the last event holds the number of tokens.
      include_obfuscation: False; events are never padded.
      continuous_usage_stats: False; the number of tokens is in the last event alone.
    """

    include_usage: bool = False
    include_obfuscation: Annotated[Any, neutral(False)] = None
    continuous_usage_stats: Annotated[Any, neutral(False)] = None


class GenerationRequest(UnsupportedFields):
    """Fields that completions and chats share; see `inference.generate.Sampler` for those of sampling.

    Attributes:
      model: name of a served model; null where a single one can answer.
      n: completions per prompt.
      seed: seed of the random choices; None draws one.
      stop: strings that end a completion and are left out of it.
      logit_bias: what is added to the logits of tokens, by id, from −100 to 100.
      stream: whether to send server-sent events as text is generated.
      stream_options: options of the stream.
      user: id of the user; in an A/B test, the same model answers all requests of a user.
    """

    model: ModelName = None
    temperature: float = Field(1.0, ge=0, le=10)
    top_p: float = Field(1.0, gt=0, le=1)
    top_k: int = Field(0, ge=-1, le=1_000_000, description='0 and -1 keep every token.')
    min_p: float = Field(0.0, ge=0, le=1)
    repetition_penalty: float = Field(1.0, gt=0, le=10)
    n: int = Field(1, ge=1, le=16)
    seed: int | None = Field(None, ge=-(2**63), lt=2**63, description='The same seed gives the same text.')
    stop: Annotated[tuple[str, ...], fields.stops(at_most=8, max_characters=200)] = ()
    logit_bias: Annotated[dict[int, float], fields.biases(at_most=MAX_BIASES, largest=100)] = Field(
        {}, description='What is added to the logits of tokens, by id.'
    )
    stream: bool = False
    stream_options: StreamOptions = StreamOptions()
    user: Annotated[str | None, fields.TEXT] = None

    @property
    def wants_usage(self) -> bool:
        """Whether a stream ends with the number of tokens."""
        return self.stream_options.include_usage


class CompletionRequest(GenerationRequest):
    """Request of /v1/completions.

    Attributes:
      prompt: a text, token ids, or a list of either; null is the beginning of a new text.
      max_tokens: maximum length of a completion; None is the server's limit.
      logprobs: number of alternatives per token to return with their log-probabilities; None returns none.
      echo: False; prompts are not repeated in completions.
      best_of: n; all completions are returned.
      suffix: an empty text; nothing can be inserted into a text.
    """

    null_values: ClassVar[dict[str, Any]] = {'prompt': ''}

    prompt: Annotated[str | list[str] | list[int] | list[list[int]], fields.prompts(MAX_PROMPTS)]
    max_tokens: MaxTokens = 16
    logprobs: int | None = Field(None, ge=0, le=MAX_LOGPROBS)
    echo: Annotated[Any, neutral(False)] = None
    best_of: int | None = Field(None, ge=1, le=16)
    suffix: Annotated[Any, neutral('')] = None

    @field_validator('logprobs', mode='before')
    @classmethod
    def _false_is_none(cls, value: Any) -> Any:
        return None if value is False else value

    @field_validator('best_of', mode='after')
    @classmethod
    def _all_are_returned(cls, value: int | None, info: ValidationInfo) -> int | None:
        if value is not None and value != info.data.get('n', 1):
            raise wrong('this server returns all completions: best_of must equal n; leave the field out')
        return value

    @property
    def prompts(self) -> list[Any]:
        """Prompts, each a text or token ids."""
        given = self.prompt
        return given if isinstance(given, list) and isinstance(given[0], str | list) else [given]


class Message(Body):
    """A message of a chat.

    Attributes:
      role: author of the message.
      content: its text, or a list of text parts.
      name: accepted and ignored.
    """

    role: Literal['system', 'developer', 'user', 'assistant']
    name: Annotated[Any, ignored(str)] = None
    id: Annotated[Any, ignored(str)] = None
    cache_control: Annotated[Any, ignored(dict)] = None
    tool_calls: Annotated[Any, neutral([])] = None
    function_call: Annotated[Any, neutral()] = None
    content: Annotated[str, fields.CONTENT]
    refusal: Annotated[Any, neutral('')] = None
    annotations: Annotated[Any, neutral([])] = None
    audio: Annotated[Any, neutral()] = None
    reasoning: Annotated[Any, neutral('')] = None
    reasoning_content: Annotated[Any, neutral('')] = None
    prefix: Annotated[Any, neutral(False)] = None


class ChatRequest(GenerationRequest, UnsupportedChatFields):
    """Request of /v1/chat/completions.

    Attributes:
      messages: all messages so far, the newest last.
      max_tokens: maximum length of the answer; `max_completion_tokens` takes precedence.
      logprobs: whether to return the log-probability of each token.
      top_logprobs: number of alternatives per token to return besides.
    """

    messages: Annotated[list[Message], Field(min_length=1, max_length=1000)]
    max_tokens: MaxTokens = None
    max_completion_tokens: MaxTokens = None
    logprobs: bool = False
    top_logprobs: int = Field(0, ge=0, le=MAX_LOGPROBS)


class HeadRequest(Body):
    """Request of /v1/classify and /v1/tag: texts for a model with a head.

    Attributes:
      model: name of a served model; null where a single one can answer.
      input: texts, none of them empty.
      user: id of the user; in an A/B test, the same model answers all requests of a user.
    """

    model: ModelName = None
    input: Annotated[str | list[str], fields.text_or_texts(MAX_INPUTS)]
    second_input: Annotated[str | list[str] | None, fields.text_or_texts(MAX_INPUTS)] = Field(
        None, description='For a model of text pairs: the second text of each.'
    )
    user: Annotated[str | None, fields.TEXT] = None
    metadata: Annotated[Any, ignored(dict)] = None


class EmbeddingRequest(Body):
    """Request of /v1/embeddings: texts for any model.

    Attributes:
      model: name of a served model; null where a single one can answer.
      input: a text, token ids, or a list of either.
      encoding_format: `float` for lists of numbers; `base64` for little-endian float32, which OpenAI's clients ask for.
      dimensions: size of the model's embeddings; they are not shortened.
    """

    model: ModelName = None
    input: Annotated[str | list[str] | list[int] | list[list[int]], fields.prompts(MAX_INPUTS)]
    encoding_format: Literal['float', 'base64'] = 'float'
    dimensions: int | None = Field(None, ge=1)
    user: Annotated[Any, ignored(str)] = None

    @property
    def inputs(self) -> list[Any]:
        """Inputs, each a text or token ids."""
        given = self.input
        return given if isinstance(given, list) and isinstance(given[0], str | list) else [given]
