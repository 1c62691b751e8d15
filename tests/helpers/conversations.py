"""Random conversations for property tests, rich in what chat formats stumble over."""

from __future__ import annotations

from hypothesis import strategies as st

from danlu.text.conversation import Conversation, Message, ToolCall

FRAGMENTS = (
    *("", "\n", "\n\n", " ", "a", "Hello", "你好", "🤖", "e\u0301", "3.14", "it's", "```\nx\n```"),
    *("<think>", "</think>", "<think>\nr\n</think>\n\nA", "<tool_call>", "</tool_call>"),
    *(
        "<|im_end|>",
        "<|im_start|>user",
        "<tool_response>",
        "</tool_response>",
        "<tool_response>\nx",
    ),
    *('{"name": "f"}', "&<>'\"", "assistant\n", "\u2028", "\t"),
)
TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "查询天气 & <more>",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}

texts = st.lists(st.sampled_from(FRAGMENTS), max_size=4).map("".join)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | texts,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(texts, inner, max_size=2),
    max_leaves=4,
)
calls = st.builds(
    ToolCall,
    name=st.sampled_from(["get_weather", "f", "查询"]),
    arguments=st.dictionaries(texts, json_values, max_size=2)
    | st.sampled_from(["{}", '{"x":1}', "{ }"]),
)
answers = st.builds(
    Message,
    role=st.just("assistant"),
    content=texts,
    reasoning=st.none() | texts,
    tool_calls=st.lists(calls, max_size=2).map(tuple),
    is_learned=st.sampled_from([True, True, True, False]),
)
others = st.builds(Message, role=st.sampled_from(["user", "user", "tool", "system"]), content=texts)
conversations = st.builds(
    Conversation,
    messages=st.lists(answers | others, min_size=1, max_size=7).map(tuple),
    tools=st.sampled_from([(), (TOOL,), (TOOL, {"type": "function"})]),
)
