from typing import Any

import pytest

from aihub.chat.content import AskedContent, asked_content
from aihub.chat.fake import FakeChatEngine
from aihub.chat.messages import UserMessage
from aihub.chat.parts import AnyPart, ReadyImage, ReadyText, TextPart
from aihub.chat.schemas import ChatCompletionRequest
from aihub.core.errors import ContextLengthError, InvalidRequestError
from pipelines.context_packing import PackedPrompt, SourceText, default_reserve, last_user_position, pack_sources
from pipelines.prompts import PromptTemplate
from tests.unit.pipelines.rag_parts import request

TEMPLATE = PromptTemplate(
    language="en", sources_title="Sources:", instruction="Answer:", no_sources="None.", caption="What is it?"
)


class CountingEngine(FakeChatEngine):
    """Counts how often it is asked to count."""

    counts = 0

    async def count_tokens(self, body: dict[str, Any]) -> int:
        self.counts += 1
        return await super().count_tokens(body)


class TemplatedEngine(FakeChatEngine):
    """Its chat template adds 30 tokens to every conversation."""

    async def count_tokens(self, body: dict[str, Any]) -> int:
        return 30 + await super().count_tokens(body)


def source(number: int, words: int) -> SourceText:
    return SourceText(number, f"doc{number}", " ".join(["word"] * words))


def asked_in(asked: ChatCompletionRequest) -> AskedContent:
    message = next(message for message in reversed(asked.messages) if isinstance(message, UserMessage))
    return asked_content(message)


async def pack(engine: FakeChatEngine, *sources: SourceText, reserve: int | None = 10, question: str = "Why ?") -> PackedPrompt:
    asked = request(question)
    return await pack_sources(
        engine, asked.to_engine_body(), asked_in(asked), template=TEMPLATE, sources=sources, reserve=reserve
    )


def content(prompt: PackedPrompt) -> str:
    return str(prompt.body["messages"][-1]["content"])


async def test_everything_that_fits_costs_one_count() -> None:
    engine = CountingEngine(context_tokens=1000)
    prompt = await pack(engine, source(1, 50), source(2, 50))
    assert prompt.used == {1, 2}
    assert engine.counts == 1


async def test_best_sources_are_taken_while_they_fit() -> None:
    prompt = await pack(FakeChatEngine(context_tokens=150), source(1, 50), source(2, 50), source(3, 50))
    assert prompt.used == {1, 2}
    assert "doc3" not in content(prompt)


async def test_source_that_is_too_long_makes_room_for_a_shorter_one() -> None:
    prompt = await pack(FakeChatEngine(context_tokens=100), source(1, 500), source(2, 40))
    assert prompt.used == {2}
    assert content(prompt).startswith('Sources:\n\n[2] doc2\n"""\n')


async def test_sources_are_never_cut() -> None:
    prompt = await pack(FakeChatEngine(context_tokens=130), source(1, 60), source(2, 60), source(3, 7))
    for number, words in ((1, 60), (3, 7)):
        assert source(number, words).text in content(prompt)
    assert prompt.used == {1, 3}


@pytest.mark.parametrize("context", range(60, 140, 7))
async def test_prompt_and_reserve_never_exceed_the_context(context: int) -> None:
    engine = FakeChatEngine(context_tokens=context)
    prompt = await pack(engine, *[source(n, 11 + n) for n in range(1, 8)])
    assert await engine.count_tokens(prompt.body) + 10 <= context
    assert prompt.used


async def test_the_chat_template_is_counted_once_not_per_source() -> None:
    bare = await pack(FakeChatEngine(context_tokens=130), *[source(n, 12) for n in range(1, 12)])
    templated = await pack(TemplatedEngine(context_tokens=160), *[source(n, 12) for n in range(1, 12)])
    assert templated.used == bare.used
    assert len(bare.used) > 3


async def test_prompt_of_exactly_the_context_fits() -> None:
    engine = FakeChatEngine(context_tokens=10_000)
    whole = await engine.count_tokens((await pack(engine, source(1, 50))).body)
    exact = await pack(FakeChatEngine(context_tokens=whole + 10), source(1, 50))
    assert exact.used == {1}
    with pytest.raises(ContextLengthError):
        await pack(FakeChatEngine(context_tokens=whole + 9), source(1, 50))


async def test_conversation_alone_over_the_context_is_refused_with_numbers() -> None:
    with pytest.raises(ContextLengthError, match=r"takes 2\d\d tokens and 10 are kept .* holds 100\b"):
        await pack(FakeChatEngine(context_tokens=100), source(1, 5), question="word " * 200)


async def test_conversation_over_the_context_is_refused_without_sources_too() -> None:
    with pytest.raises(ContextLengthError, match="holds 100"):
        await pack(FakeChatEngine(context_tokens=100), question="word " * 200)


async def test_no_room_for_one_source_says_how_to_make_room() -> None:
    with pytest.raises(ContextLengthError, match=r"None of the 2 .*smallest takes 10\d tokens.*Lower 'max_tokens'"):
        await pack(FakeChatEngine(context_tokens=60), source(1, 200), source(2, 100))


async def test_reserve_defaults_to_a_quarter_of_a_small_context() -> None:
    assert default_reserve(1000) == 250
    assert default_reserve(32_000) == 512
    with pytest.raises(ContextLengthError, match="25 are kept|\\(25\\)"):
        await pack(FakeChatEngine(context_tokens=100), source(1, 80), reserve=None)


async def test_only_the_last_user_message_changes() -> None:
    messages = [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "First?"},
        {"role": "assistant", "content": "Yes."},
        {"role": "user", "content": "Second?"},
    ]
    asked = request(messages=messages)
    body = asked.to_engine_body()
    prompt = await pack_sources(FakeChatEngine(), body, asked_in(asked), template=TEMPLATE, sources=[source(1, 3)], reserve=10)
    assert prompt.body["messages"][:3] == messages[:3]
    assert content(prompt).endswith("Answer: Second?")
    assert body["messages"][3]["content"] == "Second?"


def test_last_user_message_is_found_behind_tool_results() -> None:
    messages = [{"role": "user"}, {"role": "user"}, {"role": "assistant"}, {"role": "tool"}]
    assert last_user_position(messages) == 1


def test_conversation_without_a_user_is_refused() -> None:
    with pytest.raises(InvalidRequestError, match="role 'user'"):
        last_user_position([{"role": "system"}])


IMAGE = ReadyImage("data:image/png;base64,AAAA")


def with_parts(*parts: AnyPart) -> ChatCompletionRequest:
    asked = request("?")
    [message] = asked.messages
    assert isinstance(message, UserMessage)
    return asked.model_copy(update={"messages": [message.with_parts(parts)]})


async def content_with_sources(*parts: AnyPart) -> Any:
    asked = with_parts(*parts)
    packed = await pack_sources(
        FakeChatEngine(max_images=9),
        asked.to_engine_body(),
        asked_in(asked),
        template=TEMPLATE,
        sources=[SourceText(1, "a.txt", "A fact.")],
        reserve=10,
    )
    return packed.body["messages"][0]["content"]


def typed(text: str) -> TextPart:
    return TextPart(type="text", text=text)


SOURCES = 'Sources:\n\n[1] a.txt\n"""\nA fact.\n"""\n\nAnswer: '
SHOWN = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA", "detail": "auto"}}
VIDEO = (ReadyText("Video. Frames of it follow:"), ReadyText("Frame at 0.0 s:"), IMAGE, ReadyText("Frame at 3.0 s:"), IMAGE)
DOCUMENT = ReadyText("Text of the attached file: ...")


async def test_question_about_a_video_is_what_is_asked_and_not_its_frames() -> None:
    assert await content_with_sources(*VIDEO, typed("Which tool is shown?")) == [
        {"type": "text", "text": "Video. Frames of it follow:\nFrame at 0.0 s:"},
        SHOWN,
        {"type": "text", "text": "Frame at 3.0 s:"},
        SHOWN,
        {"type": "text", "text": f"{SOURCES}Which tool is shown?"},
    ]


async def test_document_before_an_image_is_not_what_is_asked() -> None:
    assert await content_with_sources(DOCUMENT, IMAGE, typed("What is it?")) == [
        {"type": "text", "text": DOCUMENT.text},
        SHOWN,
        {"type": "text", "text": f"{SOURCES}What is it?"},
    ]


async def test_document_without_images_is_not_what_is_asked_either() -> None:
    assert await content_with_sources(DOCUMENT, typed("What is it?")) == f"{DOCUMENT.text}\n{SOURCES}What is it?"
    assert await content_with_sources(typed("What is it?"), DOCUMENT) == f"{SOURCES}What is it?\n{DOCUMENT.text}"


async def test_what_is_typed_and_spoken_side_by_side_is_one_question() -> None:
    spoken = ReadyText("What is said in the recording: how much", question="how much")
    content = await content_with_sources(typed("Before."), IMAGE, typed("About this:"), spoken, DOCUMENT)
    assert content == [
        {"type": "text", "text": "Before."},
        SHOWN,
        {"type": "text", "text": f"{SOURCES}About this:\n{spoken.text}\n{DOCUMENT.text}"},
    ]


@pytest.mark.parametrize("position", [0, 1, 2])
async def test_images_keep_their_places_around_the_sources(position: int) -> None:
    parts: list[AnyPart] = [typed("What is it?"), typed("And this?")]
    parts.insert(position, IMAGE)
    content = await content_with_sources(*parts)
    assert content[min(position, 1)] == SHOWN
    texts = [part["text"] for part in content if part != SHOWN]
    assert texts == (["What is it?", f"{SOURCES}And this?"] if position == 1 else [f"{SOURCES}What is it?\nAnd this?"])


async def test_tokens_of_images_leave_less_room_for_sources() -> None:
    sources = [SourceText(number, "a.txt", "word " * 20) for number in range(1, 9)]
    engine = FakeChatEngine(context_tokens=190, max_images=9)
    bodies = [with_parts(*[IMAGE] * count, typed("What?")) for count in (1, 8)]
    few, many = [
        await pack_sources(engine, asked.to_engine_body(), asked_in(asked), template=TEMPLATE, sources=sources, reserve=10)
        for asked in bodies
    ]
    assert len(many.used) < len(few.used) < 8
