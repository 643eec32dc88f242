import random
from dataclasses import replace
from typing import Any

import pytest

from aihub.cache.fake import FakeAnswerStore
from aihub.cache.settings import CacheSettings
from aihub.chat.completions import CompletionRequest
from aihub.chat.schemas import ChatCompletionRequest
from aihub.core.schemas import validate
from pipelines.answer_basis import AnswerBasis, ModelIdentity
from pipelines.answer_key import answer_key, digest_request

DRAWS = 10_000
BASIS = AnswerBasis(ModelIdentity("qwen", "local", "v1"))

# What an answer depends on, drawn independently; few values each, so that equal requests occur.
TENANTS = ["default", "shop-a", "shop-b", "shop-a ", 'shop"a', "cửa hàng"]
TEXTS = ["Xin chào", "Xin chao", "Xin chào ", "a\nb", 'quote " and \\', "🍜", "", "user", "[]"]
CHOICES: dict[str, list[Any]] = {
    "temperature": [None, 0.0, 0.7],
    "seed": [None, 1, 2],
    "stop": [None, ["a"], ["a", "b"]],
    "max_completion_tokens": [None, 16, 17],
    "logit_bias": [None, {"1": 1.0, "2": -1.0}],
    "n": [None, 2],
    "stream": [None, True],
    "response_format": [None, {"type": "json_object"}],
    "retrieval": [
        None,
        {"vector_store_ids": ["vs_a"]},
        {"vector_store_ids": ["vs_a", "vs_b"]},
        {"vector_store_ids": ["vs_a"], "filters": {"type": "eq", "key": "year", "value": 2024}},
    ],
}
SOURCES = [("vs_a 1 e5", "prompts 1"), ("vs_a 2 e5", "prompts 1"), ("vs_a 1 e5", "prompts 2")]
MODELS = [
    ModelIdentity("qwen", "local", "v1"),
    ModelIdentity("qwen", "local", "v2"),
    ModelIdentity("qwen:shop@v1", "local", "v1 1"),
    ModelIdentity("qwen:shop@v2", "local", "v1 1"),
    ModelIdentity("openai/gpt", "openai", "https://api.openai.com/v1"),
]

Meaning = tuple[str, ModelIdentity, tuple[str, ...], tuple[str, ...], tuple[tuple[str, str], ...]]


def draw(source: random.Random) -> tuple[Meaning, str, ChatCompletionRequest, AnswerBasis]:
    """Draw a request with all it depends on, in one of its spellings."""
    texts = tuple(source.choice(TEXTS) for _ in range(source.choice((1, 1, 2))))
    fields = {name: source.choice(values) for name, values in CHOICES.items() if source.random() < 0.25}
    fields = {name: value for name, value in fields.items() if value is not None}
    tenant, model = source.choice(TENANTS), source.choice(MODELS)
    sources = source.choice(SOURCES) if "retrieval" in fields else ()
    meaning = (tenant, model, sources, texts, tuple(sorted((name, repr(value)) for name, value in fields.items())))
    messages = [{"role": "user", "content": text} for text in texts]
    body = {"model": source.choice(("qwen", "auto", "local/qwen")), "messages": messages, **spelled(fields, source)}
    return meaning, tenant, validate(ChatCompletionRequest, body), AnswerBasis(model, sources)


def spelled(fields: dict[str, Any], source: random.Random) -> dict[str, Any]:
    """The same fields in another spelling, with some that no answer depends on."""
    other = dict(fields)
    if "max_completion_tokens" in other and source.random() < 0.5:
        other["max_tokens"] = other.pop("max_completion_tokens")
    if other.get("stop") == ["a"] and source.random() < 0.5:
        other["stop"] = "a"
    if "logit_bias" in other and source.random() < 0.5:
        other["logit_bias"] = dict(reversed(other["logit_bias"].items()))
    if "n" not in other and source.random() < 0.5:
        other["n"] = 1
    if "stream" not in other and source.random() < 0.5:
        other["stream"] = False
    extras = {"user": "u1", "metadata": {"a": "b"}, "cache": True, "logprobs": False, "unknown": 1}
    other |= {name: value for name, value in extras.items() if source.random() < 0.2}
    return dict(source.sample(sorted(other.items()), len(other)))


async def test_ten_thousand_random_requests_hit_their_own_answer_and_no_other() -> None:
    source = random.Random(14)  # noqa: S311  # the same draws each time
    store = FakeAnswerStore(CacheSettings(mb=64))
    seen: set[Meaning] = set()
    hits = 0
    for number in range(DRAWS):
        meaning, tenant, asked, basis = draw(source)
        key = await answer_key(tenant, asked, basis)
        found = await store.look_up(key, f"{number}")
        assert (found.state == "hit") == (meaning in seen), meaning
        if found.state == "hit":
            hits += 1
            assert found.pieces == (repr(meaning),)
        else:
            await store.put(key, f"{number}", (repr(meaning),), 3600.0)
            seen.add(meaning)
    assert hits > 500
    assert len(seen) > 5000
    assert len({meaning[0] for meaning in seen}) == len(TENANTS)


def chat(**fields: Any) -> ChatCompletionRequest:
    return validate(ChatCompletionRequest, {"model": "qwen", "messages": [{"role": "user", "content": "Xin chào"}]} | fields)


TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {"a": {}, "b": {}}}}}
SWAPPED = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {"b": {}, "a": {}}}}}


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"tools": [TOOL]}, {"tools": [SWAPPED]}),
        ({"tools": [TOOL], "tool_choice": "auto"}, {"tools": [TOOL], "tool_choice": "required"}),
        ({"messages": [{"role": "user", "content": "a"}]}, {"messages": [{"role": "system", "content": "a"}]}),
        ({"messages": [{"role": "user", "content": "a"}]}, {"messages": [{"role": "user", "content": "a", "name": "Lan"}]}),
        ({"stream": True}, {"stream": True, "stream_options": {"include_usage": True}}),
        ({"top_p": 0.5}, {"top_p": 0.0}),
        ({"logprobs": True}, {"logprobs": True, "top_logprobs": 2}),
        ({"reasoning_effort": "low"}, {"reasoning_effort": "high"}),
        ({"retrieval": {"vector_store_ids": ["a"], "top_k": 3}}, {"retrieval": {"vector_store_ids": ["a"], "top_k": 4}}),
        ({"retrieval": {"vector_store_ids": ["a", "b"]}}, {"retrieval": {"vector_store_ids": ["b", "a"]}}),
    ],
)
def test_what_an_answer_may_depend_on_is_in_the_key(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert digest_request("t", chat(**one), BASIS) != digest_request("t", chat(**other), BASIS)


def test_the_question_is_searched_by_as_it_was_written() -> None:
    """Chat-template markers are broken for the engine, not for the search."""
    options = {"vector_store_ids": ["vs_a"]}
    keys = {
        digest_request("t", chat(messages=[{"role": "user", "content": text}], retrieval=options), BASIS)
        for text in ("<|im_start|>phở", "<\u2060|im_start|>phở", "phở")
    }
    assert len(keys) == 3


@pytest.mark.parametrize("change", [{"model_id": "other"}, {"provider": "openai"}, {"version": "v2"}])
def test_another_model_is_another_key(change: dict[str, str]) -> None:
    other = replace(BASIS, model=replace(BASIS.model, **change))
    assert digest_request("t", chat(), BASIS) != digest_request("t", chat(), other)


def test_completions_and_chats_are_apart_and_so_are_prompts_of_text_and_of_tokens() -> None:
    prompts: list[Any] = ["1", ["1"], [1], [[1]]]
    requests = [validate(CompletionRequest, {"model": "qwen", "prompt": prompt}) for prompt in prompts]
    without_logprobs = validate(CompletionRequest, {"model": "qwen", "prompt": "1", "logprobs": 0})
    keys = {digest_request("t", asked, BASIS) for asked in (*requests, without_logprobs, chat())}
    assert len(keys) == 6


async def test_a_long_request_has_the_same_key_from_a_thread() -> None:
    asked = chat(messages=[{"role": "user", "content": "phở " * 50_000}])
    assert await answer_key("t", asked, BASIS) == digest_request("t", asked, BASIS)


def test_lone_surrogates_are_told_apart() -> None:
    asked = [chat(messages=[{"role": "user", "content": text}]) for text in ("\ud800", "\ud801", "?")]
    assert len({digest_request("t", one, BASIS) for one in asked}) == 3
