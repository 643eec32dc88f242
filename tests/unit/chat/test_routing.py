from pathlib import Path
from typing import Any

import pytest

from aihub.chat.history import EngineHistory
from aihub.chat.routing import ModelCandidate, ModelState, Router
from aihub.chat.routing_rules import ROUTING_FILE, load_routing_rules
from aihub.core.errors import ConfigurationError, ModelUnavailableError

GB = 2**30


def model(
    model_id: str,
    state: ModelState = "loaded",
    *,
    types: str = "chat",
    languages: str = "en",
    context: int = 8192,
    gb: float = 1.0,
) -> ModelCandidate:
    return ModelCandidate(
        model_id, frozenset(types.split()), frozenset(languages.split()), state, context, size_bytes=int(gb * GB)
    )


SMOL = model("smollm2", gb=0.3)
FROG = model("frog", "loadable", languages="en vi", gb=6.4)
QWEN = model("qwen2.5-7b-awq", "loadable", types="chat code", languages="en vi", gb=5.5)
LLAVA = model("llava", "loadable", types="chat vision", gb=7.0)
MINI = model("openai/gpt-4o-mini", "remote", types="chat code vision", languages="en vi", context=128_000, gb=0)
ALL = [SMOL, FROG, QWEN, LLAVA, MINI]


def asking(text: str, **fields: Any) -> dict[str, Any]:
    return {"messages": [{"role": "system", "content": "Bạn là trợ lý."}, {"role": "user", "content": text}], **fields}


@pytest.fixture
def history() -> EngineHistory:
    return EngineHistory()


@pytest.fixture
def router(history: EngineHistory) -> Router:
    return Router(load_routing_rules(), history)


@pytest.mark.parametrize(
    ("text", "task"),
    [
        ("What is the capital of France?", "chat"),
        ("Thủ đô của Việt Nam là gì?", "chat"),
        ("Write a Python function that reverses a list.", "code"),
        ("Viết hàm Python đảo ngược danh sách", "code"),
        ("Sửa lỗi trong đoạn mã C++ này giúp tôi", "code"),
        ("```\nprint(1)\n```\nWhat does it print?", "code"),
        ("Giải thích: SELECT ten, gia FROM mon_an WHERE gia > 50", "code"),
        ("def tong(a, b):\n    return a + b", "code"),
        ("The class starts at 9:00 (room 3); select one from the list.", "chat"),
        ("I saw a python at the zoo.", "chat"),
        ("Import duties on coffee: how high are they?", "chat"),
        ("", "chat"),
    ],
)
def test_task_is_read_from_the_newest_question(router: Router, text: str, task: str) -> None:
    assert router.read(asking(text)).task == task


@pytest.mark.parametrize(
    ("text", "is_vietnamese"),
    [
        ("Giá phở bò bao nhiêu?", True),
        ("Xin chào", True),
        ("pho bo gia bao nhieu", True),
        ("Hello, how are you?", False),
        ("Bonjour, ça va à la maison ? Où est le café ?", False),
        ("Hay un café en la plaza, ¿cómo está?", False),
        ("", False),
    ],
)
def test_vietnamese_is_known_with_and_without_marks(router: Router, text: str, is_vietnamese: bool) -> None:
    assert router.read(asking(text)).is_vietnamese is is_vietnamese


def test_earlier_messages_do_not_decide_the_task(router: Router) -> None:
    body = asking("Cảm ơn bạn!")
    body["messages"].insert(1, {"role": "user", "content": "Viết hàm Python đảo ngược danh sách"})
    assert router.read(body).task == "chat"


def test_images_make_it_vision(router: Router) -> None:
    parts = [{"type": "text", "text": "Đây là gì?"}, {"type": "image_url", "image_url": {"url": "data:image/png;base64,"}}]
    facts = router.read({"messages": [{"role": "user", "content": parts}]})
    assert (facts.task, facts.is_vietnamese) == ("vision", True)


def test_prompt_of_a_completion_is_read_too(router: Router) -> None:
    assert router.read({"prompt": "Viết hàm Python", "max_tokens": 5}).task == "code"
    assert router.read({"prompt": [1, 2, 3]}).task == "chat"


@pytest.mark.parametrize(
    ("case", "text", "candidates", "chosen"),
    [
        ("what is loaded answers plain chat", "Hello there", [SMOL, FROG], "smollm2"),
        ("Vietnamese goes to a model that speaks it", "Giá phở bò bao nhiêu?", [SMOL, FROG], "frog"),
        ("code goes to a model made for it", "Write a Python function", [SMOL, FROG, QWEN], "qwen2.5-7b-awq"),
        ("of two for Vietnamese code the one that can code", "Viết hàm Python", [FROG, QWEN], "qwen2.5-7b-awq"),
        ("a provider is taken where nothing local speaks it", "Giá phở?", [model("a", "loadable"), MINI], "openai/gpt-4o-mini"),
        ("what does not fit is never taken", "Giá phở?", [SMOL, model("big", "unfit", languages="vi")], "smollm2"),
        ("the larger of two equals", "Hello", [model("a", gb=1), model("b", gb=8)], "b"),
        ("the first by name of two equals", "Hello", [model("b"), model("a")], "a"),
    ],
    ids=lambda value: value if isinstance(value, str) and " " in value else "",
)
def test_choice(router: Router, case: str, text: str, candidates: list[ModelCandidate], chosen: str) -> None:
    decision = router.decide(router.read(asking(text)), candidates)
    assert decision.model_id == chosen, (case, decision.reasons)


def test_preference_wins_where_the_model_can_do_it(router: Router) -> None:
    facts = router.read(asking("Giá phở bò bao nhiêu?"))
    decision = router.decide(facts, ALL, preferred="smollm2")
    assert decision.model_id == "smollm2"
    assert any(reason.startswith("preferred") for reason in decision.reasons)


def test_preference_cannot_make_a_text_model_see(router: Router) -> None:
    facts = router.read({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]})
    assert router.decide(facts, ALL, preferred="smollm2").model_id in {"llava", "openai/gpt-4o-mini"}
    with pytest.raises(ModelUnavailableError, match="images"):
        router.decide(facts, [SMOL, FROG])


def test_failing_model_is_avoided_even_when_preferred(router: Router, history: EngineHistory) -> None:
    for _ in range(20):
        history.fail("smollm2")
    decision = router.decide(router.read(asking("Hello there")), [SMOL, FROG], preferred="smollm2")
    assert decision.model_id == "frog"


def test_faster_of_two_equals_is_taken(router: Router, history: EngineHistory) -> None:
    history.succeed("a", tokens=100, seconds=50)
    history.succeed("b", tokens=100, seconds=2)
    decision = router.decide(router.read(asking("Hello")), [model("a"), model("b")])
    assert decision.model_id == "b"
    assert any("50 tokens/s" in reason for reason in decision.reasons)


def test_long_conversation_goes_where_it_fits(router: Router) -> None:
    facts = router.read(asking("word " * 20_000, max_completion_tokens=500))
    assert router.decide(facts, ALL).model_id == "openai/gpt-4o-mini"
    assert router.decide(facts, [SMOL, model("wide", "loadable", context=16_384)]).model_id == "wide"


def test_nothing_to_choose_from_says_what_to_do(router: Router) -> None:
    with pytest.raises(ModelUnavailableError, match="aihub models recommended"):
        router.decide(router.read(asking("Hello")), [model("big", "unfit")])


def test_reasons_are_fit_for_a_header(router: Router) -> None:
    decision = router.decide(router.read(asking("Giá phở bò bao nhiêu?")), ALL)
    assert "; ".join(decision.reasons).isascii()
    assert decision.reasons[:2] == ("task chat", "language vi")


def test_judging_a_huge_hostile_message_takes_no_time(router: Router) -> None:
    import time

    text = ("python " * 100_000) + ("select " * 50_000)
    started_s = time.perf_counter()
    router.read({"prompt": text})
    assert time.perf_counter() - started_s < 0.5


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("size: 10", "weight: 10"),
        ("fast_tokens_per_s: 60", "fast_tokens_per_s: 0"),
        ("- name: vision", "- name: poetry"),
        ("'```'", "'('"),
    ],
)
def test_wrong_rules_are_refused_with_the_place(tmp_path: Path, old: str, new: str) -> None:
    text = ROUTING_FILE.read_text(encoding="utf-8")
    assert old in text
    wrong = tmp_path / "routing.yaml"
    wrong.write_text(text.replace(old, new, 1), encoding="utf-8")
    with pytest.raises(ConfigurationError, match=r"routing\.yaml"):
        load_routing_rules(wrong)
