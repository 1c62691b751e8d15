"""Fields that clients send and this server does not have, each with its fate. Data only.

They are OpenAI's that change nothing here, and those of other servers (vLLM, llama.cpp, Ollama,
OpenRouter), under the names in their references. docs/serving.md has the same table for users.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class ForeignField:
    """What happens to a field. null and what is empty ask for nothing, whatever the field.

    neutral: values that say what happens anyway. same_as: our field that it is another name for.
    advice: what to use instead; every other value is then refused. Without advice it is a hint:
    any value is accepted, and listed as ignored.
    """

    neutral: tuple[object, ...] = ()
    same_as: str = ""
    advice: str = ""

    def asks_for_nothing(self, value: object) -> bool:
        """Tell whether a value says no more than what happens anyway."""
        # In Python True is 1; in JSON it is not.
        return any(
            value == known and isinstance(value, bool) == isinstance(known, bool)
            for known in (None, "", [], {}, *self.neutral)
        )


ForeignFields = Mapping[str, ForeignField]


def _foreign(
    names: str, *neutral: object, same_as: str = "", advice: str = ""
) -> dict[str, ForeignField]:
    field = ForeignField(neutral=neutral, same_as=same_as, advice=advice)
    return dict.fromkeys(names.split(), field)


TEXT_ONLY = "Only text is served."
SAMPLERS = "The server has temperature, top_p, top_k, min_p and penalties: use those."

SAMPLING_FIELDS: ForeignFields = {
    **_foreign(
        "metadata moderation prediction prompt_cache_key prompt_cache_options "
        "prompt_cache_retention safety_identifier service_tier verbosity priority request_id "
        "keep_alive ttl provider usage cache_prompt cache_salt session_id rid id_slot "
        "guided_decoding_backend timings_per_token return_progress"
    ),
    # Of samplers that are off unless a field below says otherwise.
    **_foreign(
        "mirostat_tau mirostat_eta dynatemp_exponent xtc_threshold dry_base dry_allowed_length "
        "dry_penalty_last_n dry_sequence_breakers"
    ),
    **_foreign("store", False),
    **_foreign("repeat_penalty", same_as="repetition_penalty"),
    **_foreign("random_seed", same_as="seed"),
    **_foreign("best_of", 1, advice="Use n: every answer that is computed is returned."),
    **_foreign("use_beam_search early_stopping", False, advice="Answers are sampled: use n."),
    **_foreign("length_penalty", 1, advice="Answers are sampled: there is no beam search."),
    **_foreign("typical_p typ_p tfs_z", 1, advice=SAMPLERS),
    **_foreign("mirostat top_a dynatemp_range xtc_probability dry_multiplier", 0, advice=SAMPLERS),
    **_foreign("logits_processors vllm_xargs samplers", advice=SAMPLERS),
    **_foreign(
        "skip_special_tokens", True, advice="Control tokens are never written as text: leave it."
    ),
    **_foreign("spaces_between_special_tokens add_special_tokens", True, False),
    **_foreign(
        "include_stop_str_in_output no_stop_trim",
        False,
        advice="The client knows the stop text: add it there.",
    ),
    **_foreign("return_token_ids return_tokens_as_token_ids", False, advice="Use /tokenize."),
    **_foreign("bad_words allowed_token_ids", advice="Use logit_bias, with token ids."),
    **_foreign("truncate_prompt_tokens", advice="Nothing is cut off here: shorten the prompt."),
    **_foreign("guided_whitespace_pattern", advice="Use structured_outputs.regex or grammar."),
    **_foreign(
        "extra_body", advice="It is an argument of OpenAI's client: put its fields beside the rest."
    ),
    **_foreign("format", advice="It is Ollama's: use response_format."),
    **_foreign("options", advice="It is Ollama's: put temperature, max_tokens, ... beside model."),
}

CHAT_FIELDS: ForeignFields = {
    **SAMPLING_FIELDS,
    **_foreign("thinking_budget", same_as="thinking_token_budget"),
    **_foreign(
        "include_reasoning separate_reasoning stream_reasoning",
        True,
        advice="The thought comes apart from the content: do not read it, or use reasoning_effort.",
    ),
    **_foreign(
        "reasoning_format", "auto", "deepseek", advice="The thought comes apart from the content."
    ),
    **_foreign("safe_prompt", False, advice="Write a system message."),
    **_foreign("echo", False, advice="Only /v1/completions gives the prompt back."),
    **_foreign("prompt_logprobs", advice="Use /v1/completions with echo and logprobs."),
    **_foreign("suffix", advice="Text cannot be inserted: the model writes on."),
    **_foreign(
        "add_generation_prompt", True, advice="An answer is a new turn; see /v1/completions."
    ),
    **_foreign(
        "continue_final_message", False, advice="An answer is a new turn; see /v1/completions."
    ),
    **_foreign("chat_template", advice="The template that the model was trained with is used."),
    **_foreign("documents", advice="Put their text into a message."),
    **_foreign("modalities", ["text"], advice=TEXT_ONLY),
    **_foreign("audio mm_processor_kwargs", advice=TEXT_ONLY),
    **_foreign("functions", advice="This is outdated: use tools."),
    **_foreign("function_call", "none", "auto", advice="This is outdated: use tool_choice."),
    **_foreign("web_search_options", advice="The server does not search the web."),
}

COMPLETION_FIELDS: ForeignFields = {
    **SAMPLING_FIELDS,
    **_foreign("prompt_logprobs", advice="Use echo with logprobs."),
    **_foreign("suffix", advice="Text cannot be inserted: the model writes on."),
}

# What else stands in a message, a part, a call or a tool is a note of the client's.
MESSAGE_FIELDS: ForeignFields = {
    **_foreign("prefix partial", False, advice="An answer is a new turn; see /v1/completions."),
    **_foreign("images audio", advice=TEXT_ONLY),
    **_foreign("refusal", advice="A refusal cannot be shown to the model: use content."),
    **_foreign("function_call", advice="This is outdated: use tool_calls."),
}

# What belongs to the schema, where that stands beside the type.
FORMAT_FIELDS: ForeignFields = _foreign("name description strict")

STREAM_FIELDS: ForeignFields = _foreign("include_obfuscation", False)

REASONING_FIELDS: ForeignFields = {
    **_foreign("summary generate_summary"),
    **_foreign(
        "exclude", False, advice="The thought comes apart from the content: do not read it."
    ),
}

THINKING_FIELDS: ForeignFields = _foreign("clear_thinking display")
