"""Fields that this server does not support, accepted at the values that change nothing and refused at all others.

They are those of OpenAI's API, and those that clients of other servers send (vLLM, SGLang, llama.cpp, Text Generation
Inference, OpenRouter). Hints that change no answer are accepted at any value.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import ValidationInfo, field_validator

from palm_jax.serving.fields import Body, ignored, is_neutral_list, neutral, wrong

_Text = Annotated[Any, ignored(str)]
_Object = Annotated[Any, ignored(dict)]
_Boolean = Annotated[Any, ignored(bool)]
_False = Annotated[Any, neutral(False)]
_True = Annotated[Any, neutral(True)]
_Zero = Annotated[Any, neutral(0)]
_One = Annotated[Any, neutral(1)]
_EmptyText = Annotated[Any, neutral('')]
_EmptyList = Annotated[Any, neutral([])]
_EmptyObject = Annotated[Any, neutral({})]
_Null = Annotated[Any, neutral()]


class UnsupportedFields(Body):
    """Fields of completions and chats."""

    # OpenAI's
    metadata: _Object = None
    safety_identifier: _Text = None
    prompt_cache_key: _Text = None
    prompt_cache_options: _Object = None
    prompt_cache_retention: _Text = None
    store: _False = None
    service_tier: Annotated[Any, neutral('auto', 'default')] = None
    frequency_penalty: _Zero = None
    presence_penalty: _Zero = None
    response_format: Annotated[Any, neutral({'type': 'text'})] = None

    # vLLM's and SGLang's
    use_beam_search: _False = None
    length_penalty: _One = None
    early_stopping: _False = None
    ignore_eos: _False = None
    min_tokens: _Zero = None
    stop_token_ids: _EmptyList = None
    include_stop_str_in_output: _False = None
    no_stop_trim: _False = None
    skip_special_tokens: _True = None
    spaces_between_special_tokens: _Boolean = None
    allowed_token_ids: _EmptyList = None
    bad_words: _EmptyList = None
    logits_processors: _EmptyList = None
    prompt_logprobs: Annotated[Any, neutral(0, False)] = None
    return_tokens_as_token_ids: _False = None
    return_token_ids: _False = None
    truncate_prompt_tokens: Annotated[Any, neutral(-1)] = None
    priority: _Zero = None
    request_id: _Text = None
    rid: _Text = None
    cache_salt: _Text = None
    vllm_xargs: _EmptyObject = None
    regex: _EmptyText = None
    ebnf: _EmptyText = None
    guided_json: _EmptyText = None
    guided_regex: _EmptyText = None
    guided_choice: _EmptyList = None
    guided_grammar: _EmptyText = None
    structured_outputs: _Null = None

    # llama.cpp's
    cache_prompt: _Boolean = None
    repeat_penalty: _One = None
    repeat_last_n: Annotated[Any, ignored(int)] = None
    typical_p: _One = None
    tfs_z: _One = None
    top_a: _Zero = None
    mirostat: _Zero = None
    mirostat_tau: Annotated[Any, neutral(5)] = None
    mirostat_eta: Annotated[Any, neutral(0.1)] = None
    dynatemp_range: _Zero = None
    xtc_probability: _Zero = None
    dry_multiplier: _Zero = None
    grammar: _EmptyText = None
    json_schema: _Null = None
    n_probs: _Zero = None
    n_keep: _Zero = None
    id_slot: Annotated[Any, neutral(-1)] = None
    timings_per_token: _False = None
    return_tokens: _False = None
    return_progress: _False = None
    post_sampling_probs: _False = None
    lora: _EmptyList = None

    # Text Generation Inference's, Mistral's and OpenRouter's
    watermark: _False = None
    return_full_text: _False = None
    details: _False = None
    decoder_input_details: _False = None
    safe_prompt: _False = None
    transforms: _EmptyList = None
    models: _EmptyList = None
    plugins: _EmptyList = None
    provider: _EmptyObject = None
    options: _EmptyObject = None


class UnsupportedChatFields(UnsupportedFields):
    """Fields of chats."""

    # OpenAI's
    parallel_tool_calls: _Boolean = None
    tool_choice: Annotated[Any, neutral('none', 'auto')] = None
    function_call: Annotated[Any, neutral('none', 'auto')] = None
    tools: Any = None
    functions: Any = None
    modalities: Annotated[Any, neutral(['text'])] = None
    audio: _Null = None
    prediction: _Null = None
    reasoning_effort: Annotated[Any, neutral('none')] = None
    verbosity: Annotated[Any, neutral('medium')] = None
    web_search_options: _Null = None
    moderation: _Null = None

    # of other servers
    echo: _False = None
    add_generation_prompt: _True = None
    continue_final_message: _False = None
    add_special_tokens: _Boolean = None
    documents: _EmptyList = None
    data_sources: _EmptyList = None
    chat_template: _EmptyText = None
    chat_template_kwargs: _EmptyObject = None
    mm_processor_kwargs: _EmptyObject = None
    include_reasoning: _Boolean = None
    separate_reasoning: _Boolean = None
    stream_reasoning: _Boolean = None
    enable_thinking: _False = None
    thinking: Annotated[Any, neutral({'type': 'disabled'})] = None
    reasoning: Annotated[Any, neutral({}, {'enabled': False}, {'effort': 'none'})] = None

    @field_validator('tools', 'functions', mode='plain', json_schema_input_type=list[dict[str, Any]])
    @classmethod
    def _no_tools(cls, value: Any, info: ValidationInfo) -> Any:
        """Accept tools that the model may not call."""
        choice = 'tool_choice' if info.field_name == 'tools' else 'function_call'
        if is_neutral_list(value, info.data.get(choice)):
            return value
        raise wrong(f'models here call no tools; send [] or {choice} = "none", or leave the field out')
