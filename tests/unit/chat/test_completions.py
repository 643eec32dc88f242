from typing import Any

import httpx
import pytest

from tests.unit.conftest import assert_refused
from tests.unit.http.services import Parts

PATH = "/v1/completions"


def body(**changes: Any) -> dict[str, Any]:
    return {"model": "fake-chat", "prompt": "Một hai"} | changes


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "prompt missing": ({"prompt": None}, "prompt"),
    "prompt empty": ({"prompt": ""}, "prompt.0"),
    "no prompts": ({"prompt": []}, "prompt"),
    "17 prompts": ({"prompt": ["a"] * 17}, "prompt"),
    "an empty prompt among others": ({"prompt": ["a", ""]}, "prompt.1"),
    "mixed prompts": ({"prompt": ["a", [1]]}, "prompt.1"),
    "prompt an object": ({"prompt": {"text": "a"}}, "prompt"),
    "a negative token": ({"prompt": [1, -1]}, "prompt.0"),
    "a huge token": ({"prompt": [[1], [2**40]]}, "prompt.1"),
    "a token that is true": ({"prompt": [[1, True]]}, "prompt.0"),
    "2 MB of text": ({"prompt": "a" * 2_000_000}, "prompt"),
    "a million tokens": ({"prompt": [1] * 1_000_000}, "prompt"),
    "echo": ({"echo": True}, "echo"),
    "suffix": ({"suffix": "the end"}, "suffix"),
    "best_of": ({"best_of": 5}, "best_of"),
    "logprobs 6": ({"logprobs": 6}, "logprobs"),
    "logprobs true": ({"logprobs": True}, "logprobs"),
    "max_tokens 0": ({"max_tokens": 0}, "max_tokens"),
    "n 9": ({"n": 9}, "n"),
    "prompt_embeds": ({"prompt_embeds": "AAAA"}, "prompt_embeds"),
    "prompt_logprobs": ({"prompt_logprobs": 5}, "prompt_logprobs"),
    "schema with a lookahead": (
        {
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": "a", "schema": {"type": "string", "pattern": "(?=x)x"}},
            }
        },
        "response_format.json_schema.schema.pattern",
    ),
    "stream_options without stream": ({"stream_options": {"include_usage": True}}, "stream_options"),
}


@pytest.mark.parametrize("name", BAD)
async def test_bad_request_is_refused_by_field_then_a_good_one_is_answered(client: httpx.AsyncClient, name: str) -> None:
    changes, param = BAD[name]
    assert_refused(await client.post(PATH, json=body(**changes)), 400, param=param)
    good = await client.post(PATH, json=body())
    assert good.json()["choices"][0]["text"] == "You said: Một hai"


@pytest.mark.parametrize("prompt", ["a", ["a", "b"], [1, 2, 3], [[1, 2], [3]]])
async def test_every_form_of_prompt_reaches_the_engine(client: httpx.AsyncClient, parts: Parts, prompt: Any) -> None:
    response = await client.post(PATH, json=body(prompt=prompt, logprobs=5, best_of=1, echo=False, suffix=""))
    assert response.status_code == 200
    sent = parts.engine.bodies[-1]
    assert sent == {"model": "fake-chat", "prompt": prompt, "max_tokens": 16, "logprobs": 5, "stream": False}


async def test_stream_ends_with_finish_reason_and_done(client: httpx.AsyncClient) -> None:
    response = await client.post(PATH, json=body(stream=True, max_tokens=2))
    assert response.headers["content-type"].startswith("text/event-stream")
    events = response.text.split("\n\n")
    assert events[-2] == "data: [DONE]"
    assert '"finish_reason":"length"' in events[-3]


async def test_unknown_model_is_404(client: httpx.AsyncClient) -> None:
    assert_refused(await client.post(PATH, json=body(model="other")), 404, code="model_not_found")
