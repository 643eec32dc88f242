import asyncio
from contextlib import aclosing
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aihub.chat.fake import FakeChatEngine
from aihub.chat.schemas import RetrievalOptions
from aihub.core.errors import (
    InvalidRequestError,
    ModelUnavailableError,
    NotFoundError,
    OverloadedError,
    PayloadTooLargeError,
    RequestTimeoutError,
    StorageUnavailableError,
    UnavailableError,
)
from aihub.core.principal import Principal
from aihub.speech.service import RecognitionOptions
from pipelines import early_retrieval, listening
from pipelines.early_retrieval import STABLE_S, EarlyRetrieval, StableText
from tests.unit.pipelines.rag_parts import CALLER, store
from tests.unit.pipelines.voice_parts import PAUSE, Microphone, VoiceHub, WordFinder, question, until

BATTERY_ANSWER = "The battery lasts 38 hours."


def says(text: str) -> FakeChatEngine:
    return FakeChatEngine(answer=lambda _: text)


def kinds(events: list[dict[str, Any]]) -> list[str]:
    return [event.get("type") or event.get("object") or "error" for event in events]


def sources(answer: dict[str, Any]) -> list[tuple[str, float, bool]]:
    return [(found["text"], found["score"], found["used"]) for found in answer["retrieval"]["chunks"]]


async def test_transcript_comes_first_then_the_cited_answer() -> None:
    hub = VoiceHub(engine=says(BATTERY_ANSWER))
    events = await hub.stream("how long does ", "the battery ", PAUSE, "last")
    assert kinds(events)[:4] == ["transcript.partial", "transcript.partial", "transcript.final", "transcript.partial"]
    assert events[2] | {"words": None} == {
        "type": "transcript.final",
        "text": "how long does the battery",
        "start": 0.0,
        "end": 1.25,
        "words": None,
    }
    done = kinds(events).index("transcript.done")
    text = "how long does the battery last"
    assert events[done] == {"type": "transcript.done", "text": text, "model": "vosk:en", "language": "en"}
    answer = events[done + 1 :]
    assert set(kinds(answer)) == {"chat.completion.chunk"}
    said = "".join(choice["delta"].get("content", "") for event in answer for choice in event["choices"])
    assert said == BATTERY_ANSWER
    [citation] = answer[-1]["choices"][0]["delta"]["annotations"]
    assert citation["quote"] == "The Falcon X2 battery lasts 38 hours on one charge."
    assert answer[-1]["retrieval"]["search_query"] == text


async def test_answer_in_one_piece_carries_the_transcript() -> None:
    answer = await VoiceHub(engine=says(BATTERY_ANSWER)).ask("how long does the battery last", PAUSE)
    assert answer["object"] == "chat.completion"
    [citation] = answer["choices"][0]["message"]["annotations"]
    assert citation["quote"] == "The Falcon X2 battery lasts 38 hours on one charge."
    assert answer["transcript"]["text"] == "how long does the battery last"
    assert answer["transcript"]["segments"][0]["words"][0] == {"word": "how", "start": 0.0, "end": 0.25, "confidence": 1.0}


async def test_vietnamese_question_finds_and_cites_vietnamese() -> None:
    answer = await VoiceHub(engine=says("Giá là 65 nghìn đồng.")).ask("phở bò giá ", "bao nhiêu", PAUSE)
    assert answer["retrieval"]["search_query"] == "phở bò giá bao nhiêu"
    assert [a["quote"] for a in answer["choices"][0]["message"]["annotations"]] == ["Một tô phở bò giá 65 nghìn đồng."]


async def test_turns_before_the_question_reach_the_model() -> None:
    hub = VoiceHub()
    earlier = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hello. What is it?"}]
    await hub.ask("how long does the battery last", messages=earlier)
    roles = [message["role"] for message in hub.engine.bodies[-1]["messages"]]
    assert roles[-3:] == ["user", "assistant", "user"]
    assert hub.finder.asked == ["how long does the battery last"]


async def test_without_retrieval_it_is_a_plain_answer() -> None:
    hub = VoiceHub()
    answer = await hub.ask("tell me a long story", PAUSE, retrieval=False)
    assert answer["choices"][0]["message"]["content"] == "You said: tell me a long story"
    assert "retrieval" not in answer
    assert hub.finder.asked == []


async def test_search_begins_while_the_audio_still_arrives() -> None:
    hub, microphone = VoiceHub(), Microphone()
    asking = asyncio.create_task(hub.voice.ask(CALLER, question(), microphone.audio()))
    microphone.say("how long does the battery last" + PAUSE)
    await until(lambda: hub.finder.asked == ["how long does the battery last"])
    assert not asking.done()
    microphone.stop()
    answer = await asking
    assert hub.finder.asked == ["how long does the battery last"]  # and never again
    assert answer["retrieval"]["chunks"]


async def test_search_begins_on_a_partial_that_stays_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(early_retrieval, "STABLE_S", 0.02)
    hub, microphone = VoiceHub(), Microphone()
    asking = asyncio.create_task(hub.voice.ask(CALLER, question(), microphone.audio()))
    microphone.say("how long does the battery last")
    await until(lambda: bool(hub.speech.streams))
    await asyncio.sleep(0.03)
    assert hub.finder.asked == []
    microphone.say(" ")
    await until(lambda: hub.finder.asked == ["how long does the battery last"])
    microphone.stop()
    await asking
    assert len(hub.finder.asked) == 1


def test_text_is_stable_when_two_results_far_enough_apart_agree() -> None:
    now = [0.0]
    stable = StableText(clock=lambda: now[0])
    told = []
    for at_s, text in [
        (0.0, "battery warranty"),
        (0.1, "battery warranty"),
        (0.2, "battery warranty years"),
        (0.2 + STABLE_S - 0.01, "battery warranty years"),
        (0.2 + STABLE_S, "battery warranty years"),
        (0.9, "battery warranty years"),
    ]:
        now[0] = at_s
        told.append(stable.observe(text, is_final=False))
    assert told == [False, False, False, False, True, False]


@pytest.mark.parametrize("text", ["", "how is it", "the battery", "nó là gì", "battery battery"])
def test_too_few_content_words_are_never_stable(text: str) -> None:
    assert not StableText().observe(text, is_final=True)


def test_end_of_an_utterance_is_stable_at_once() -> None:
    stable = StableText()
    assert stable.observe("phở bò", is_final=True)
    assert not stable.observe("phở bò", is_final=True)


async def test_search_for_less_is_given_up_and_at_most_one_runs() -> None:
    async def wait(query: str) -> None:
        if query != "battery warranty years":
            await asyncio.Event().wait()

    hub, microphone = VoiceHub(finder=WordFinder(wait=wait)), Microphone()
    asking = asyncio.create_task(hub.voice.ask(CALLER, question(), microphone.audio()))
    microphone.say("battery" + PAUSE + "warranty" + PAUSE)
    await until(lambda: hub.finder.asked == ["battery warranty"])
    microphone.say("years" + PAUSE)
    await until(lambda: len(hub.finder.asked) == 2)
    microphone.stop()
    answer = await asking
    assert hub.finder.asked == ["battery warranty", "battery warranty years"]
    assert hub.finder.cancelled == ["battery warranty"]
    assert hub.finder.most == 1
    assert answer["retrieval"]["search_query"] == "battery warranty years"


@pytest.mark.parametrize("is_closed", [False, True])
async def test_searches_given_up_before_they_began_still_end_those_before_them(is_closed: bool) -> None:
    async def wait(query: str) -> None:
        if query == "battery":
            await asyncio.Event().wait()

    hub = VoiceHub(finder=WordFinder(wait=wait))
    early = EarlyRetrieval(hub.rag, CALLER, RetrievalOptions(vector_store_ids=["vs_shop"]))
    early.begin("battery")
    await until(lambda: hub.finder.asked == ["battery"])
    early.begin("battery warranty")
    if is_closed:
        await early.close()
        assert hub.finder.asked == ["battery"]
    else:
        early.begin("battery warranty years")
        assert await early.settle("battery warranty years")
        assert hub.finder.asked == ["battery", "battery warranty years"]
    assert hub.finder.cancelled == ["battery"]
    assert hub.finder.most == 1


async def test_search_that_is_under_way_at_the_end_is_waited_for() -> None:
    gate = asyncio.Event()

    async def wait(_: str) -> None:
        await gate.wait()

    hub, microphone = VoiceHub(finder=WordFinder(wait=wait)), Microphone()
    asking = asyncio.create_task(hub.voice.ask(CALLER, question(), microphone.audio()))
    microphone.say("how long does the battery last" + PAUSE)
    await until(lambda: len(hub.finder.asked) == 1)
    microphone.stop()
    await until(lambda: microphone.is_closed)
    await asyncio.sleep(0.02)
    assert not asking.done()
    gate.set()
    await asking
    assert len(hub.finder.asked) == 1
    assert hub.finder.cancelled == []


async def test_words_after_the_early_search_lead_to_a_new_one() -> None:
    hub = VoiceHub()
    late = await VoiceHub().ask("the battery warranty", PAUSE, "and refunds", early=False)
    answer = await hub.ask("the battery warranty", PAUSE, "and refunds")
    assert hub.finder.asked == ["the battery warranty", "the battery warranty and refunds"]
    assert sources(answer) == sources(late)


async def test_document_added_after_the_early_search_is_found() -> None:
    hub, microphone = VoiceHub(), Microphone()
    asking = asyncio.create_task(hub.voice.ask(CALLER, question(), microphone.audio()))
    microphone.say("how long does the battery last" + PAUSE)
    await until(lambda: len(hub.finder.asked) == 1)
    hub.stores.stores = [replace(store(), version=2)]
    microphone.stop()
    await asking
    assert hub.finder.asked == ["how long does the battery last"] * 2


async def test_store_that_expires_during_the_question_is_told() -> None:
    hub, microphone = VoiceHub(), Microphone()
    asking = asyncio.create_task(hub.voice.ask(CALLER, question(), microphone.audio()))
    microphone.say("how long does the battery last" + PAUSE)
    await until(lambda: len(hub.finder.asked) == 1)
    hub.stores.stores = [store(status="expired")]
    microphone.stop()
    with pytest.raises(NotFoundError, match="expired"):
        await asking


async def test_early_search_that_fails_is_made_again() -> None:
    hub, microphone = VoiceHub(finder=WordFinder(error=StorageUnavailableError("down"))), Microphone()
    asking = asyncio.create_task(hub.voice.ask(CALLER, question(), microphone.audio()))
    microphone.say("how long does the battery last" + PAUSE)
    await until(lambda: len(hub.finder.asked) == 1)
    hub.finder.error = None
    microphone.stop()
    answer = await asking
    assert answer["retrieval"]["chunks"]


async def test_search_that_fails_at_the_end_as_well_is_told() -> None:
    hub = VoiceHub(finder=WordFinder(error=StorageUnavailableError("down")))
    with pytest.raises(StorageUnavailableError):
        await hub.ask("how long does the battery last", PAUSE)
    assert hub.engine.active == 0


async def test_early_retrieval_can_be_switched_off() -> None:
    hub, microphone = VoiceHub(), Microphone()
    asking = asyncio.create_task(hub.voice.ask(CALLER, question(early=False), microphone.audio()))
    microphone.say("how long does the battery last" + PAUSE)
    await asyncio.sleep(0.02)
    assert hub.finder.asked == []
    microphone.stop()
    await asking
    assert hub.finder.asked == ["how long does the battery last"]


spoken = st.lists(st.sampled_from(["battery ", "warranty ", "the ", "refunds ", "phở bò ", "shop ", PAUSE, " "]), max_size=12)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(pieces=spoken)
def test_answers_are_the_same_with_and_without_early_retrieval(pieces: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """With every partial taken as stable, which begins a search at each step."""
    monkeypatch.setattr(early_retrieval, "STABLE_S", 0.0)
    said = ["shop ", *pieces]

    async def both() -> None:
        early, late = VoiceHub(), VoiceHub()
        answers = [await early.ask(*said), await late.ask(*said, early=False)]
        assert sources(answers[0]) == sources(answers[1])
        assert answers[0]["choices"] == answers[1]["choices"]
        assert early.engine.bodies[-1] == late.engine.bodies[-1]
        assert early.finder.most == 1

    asyncio.run(both())


async def test_speech_outside_the_phrases_is_no_part_of_the_question() -> None:
    answer = await VoiceHub().ask("[unk] battery warranty [unk]", PAUSE)
    assert answer["transcript"]["text"] == "battery warranty"


@pytest.mark.parametrize("pieces", [[PAUSE], [" ", PAUSE, " "], ["[unk]", PAUSE], []])
async def test_no_speech_is_refused(pieces: list[str]) -> None:
    hub = VoiceHub()
    for asking in (hub.ask, hub.stream):
        with pytest.raises(InvalidRequestError, match="No speech") as refused:
            await asking(*pieces)
        assert refused.value.code == "no_speech"
    assert not hub.engine.bodies


@pytest.mark.parametrize(
    "wrong", [{"temperature": 9.0}, {"messages": "hello"}, {"messages": [{"role": "wizard"}]}, {"retrieval": {"top_k": 5}}]
)
async def test_wrong_option_is_told_before_any_audio_is_read(wrong: dict[str, Any]) -> None:
    hub, microphone = VoiceHub(), Microphone()
    chat = question().chat | wrong
    for asking in (hub.voice.ask, hub.voice.open_ask_stream):
        with pytest.raises(InvalidRequestError):
            await asking(CALLER, replace(question(), chat=chat), microphone.audio())
    assert not hub.speech.options


async def test_speech_part_that_is_away_is_told() -> None:
    hub = VoiceHub()
    hub.speech.models_here = ()
    with pytest.raises(ModelUnavailableError, match="aihub models download"):
        await hub.stream("how long does the battery last")


async def test_unknown_speech_model_is_told_by_the_name_of_its_option() -> None:
    asked = replace(question(), recognition=RecognitionOptions(model="vosk:xx"))
    with pytest.raises(NotFoundError, match="vosk:xx") as refused:
        await VoiceHub().voice.ask(CALLER, asked, _said("how long does the battery last"))
    assert refused.value.param == "speech_model"


async def test_all_places_taken_is_told() -> None:
    hub = VoiceHub()
    hub.speech._max_streams = 0
    with pytest.raises(OverloadedError):
        await hub.ask("how long does the battery last")


async def test_recogniser_that_dies_ends_the_stream_and_leaves_nothing() -> None:
    hub, microphone = VoiceHub(), Microphone()
    opening = asyncio.create_task(hub.voice.open_ask_stream(CALLER, question(), microphone.audio()))
    microphone.say("how long does ")
    frames = await opening
    assert "transcript.partial" in await anext(frames)
    hub.speech.feed_error = UnavailableError("The recogniser died.")
    microphone.say("the battery last")
    with pytest.raises(UnavailableError, match="died"):
        await anext(frames)
    await until(lambda: microphone.is_closed)
    assert not hub.speech.streams


async def test_question_that_is_too_long_is_refused() -> None:
    hub = VoiceHub()
    hub.speech.second_per_word = 100.0
    with pytest.raises(PayloadTooLargeError) as refused:
        await hub.ask("how long does the battery last", PAUSE)
    assert refused.value.code == "audio_too_long"
    assert not hub.speech.streams


async def test_audio_that_takes_too_long_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listening, "MAX_LISTEN_S", 0.05)
    hub, microphone = VoiceHub(), Microphone()
    with pytest.raises(RequestTimeoutError):
        await hub.voice.ask(CALLER, question(), microphone.audio())
    assert not hub.speech.streams


@pytest.mark.parametrize("wrong", [{"model": "nobody"}, {"retrieval": {"vector_store_ids": ["vs_nobody"]}}])
async def test_model_or_store_that_is_not_there_is_told_before_any_audio_is_read(wrong: dict[str, Any]) -> None:
    hub, microphone = VoiceHub(), Microphone()
    for asking in (hub.voice.ask, hub.voice.open_ask_stream):
        with pytest.raises(NotFoundError, match="nobody"):
            await asking(CALLER, replace(question(), chat=question().chat | wrong), microphone.audio())
    assert not hub.speech.options


async def test_usage_can_be_asked_of_a_stream_alone() -> None:
    hub = VoiceHub()
    events = await hub.stream("how long does the battery last", stream_options={"include_usage": True})
    assert events[-1]["usage"]["total_tokens"]
    with pytest.raises(InvalidRequestError, match="stream_options"):
        await hub.ask("how long does the battery last", stream_options={"include_usage": True})


async def _said(text: str) -> Any:
    yield text.encode()


async def test_client_that_leaves_while_it_speaks_stops_everything() -> None:
    async def wait(_: str) -> None:
        await asyncio.Event().wait()

    hub, microphone = VoiceHub(finder=WordFinder(wait=wait)), Microphone()
    opening = asyncio.create_task(hub.voice.open_ask_stream(CALLER, question(), microphone.audio()))
    microphone.say("how long does the battery last" + PAUSE)
    frames = await opening
    await until(lambda: len(hub.finder.asked) == 1)
    await frames.aclose()
    assert hub.finder.cancelled == ["how long does the battery last"]
    assert microphone.is_closed
    assert not hub.speech.streams
    assert not hub.engine.bodies


async def test_client_that_leaves_before_anything_was_heard_stops_everything() -> None:
    hub, microphone = VoiceHub(), Microphone()
    for asking in (hub.voice.ask, hub.voice.open_ask_stream):
        task = asyncio.ensure_future(asking(CALLER, question(), microphone.audio()))
        await until(lambda: bool(hub.speech.streams))
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert task.cancelled()
        assert not hub.speech.streams


async def test_place_is_given_back_though_the_client_leaves_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    hub, microphone = VoiceHub(), Microphone()
    close, closing = hub.speech.close, asyncio.Event()

    async def close_slowly(principal: Principal, stream_id: str) -> None:
        closing.set()
        await asyncio.sleep(0.02)
        await close(principal, stream_id)

    monkeypatch.setattr(hub.speech, "close", close_slowly)
    asking = asyncio.ensure_future(hub.voice.ask(CALLER, question(), microphone.audio()))
    await until(lambda: bool(hub.speech.streams))
    asking.cancel()
    await closing.wait()
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)
    assert asking.cancelled()
    assert not hub.speech.streams
    assert microphone.is_closed


async def test_client_that_leaves_during_the_answer_stops_the_engine() -> None:
    hub = VoiceHub(engine=FakeChatEngine(token_s=0.05))
    frames = await hub.voice.open_ask_stream(CALLER, question(), _said("how long does the battery last"))
    async with aclosing(frames):
        async for frame in frames:
            if "chat.completion.chunk" in frame:
                break
        assert hub.engine.active == 1
    await until(lambda: hub.engine.active == 0, within_s=1.0)


async def test_audio_is_read_though_nobody_takes_the_events() -> None:
    hub, microphone = VoiceHub(), Microphone()
    opening = asyncio.create_task(hub.voice.open_ask_stream(CALLER, question(), microphone.audio()))
    for number in range(40):
        microphone.say(f"b{number} ")
    microphone.say(PAUSE)
    microphone.stop()
    frames = await opening
    await until(lambda: microphone.is_closed)
    events = [frame async for frame in frames if "transcript." in frame]
    assert len(events) <= 4  # of the partials only the last


async def test_questions_at_the_same_time_get_their_own_answers() -> None:
    hub = VoiceHub()
    topics = ["battery warranty", "shop opens", "refunds paid", "phở bò"]
    asked = [f"{topic} number {number}" for number in range(3) for topic in topics]
    hub.speech._max_streams = len(asked)
    answers = await asyncio.gather(*(hub.ask(*[f"{word} " for word in text.split()], PAUSE) for text in asked))
    for text, answer in zip(asked, answers, strict=True):
        assert answer["transcript"]["text"] == answer["retrieval"]["search_query"] == text
        assert sources(answer) == sources(await VoiceHub().ask(text, early=False))
    assert not hub.speech.streams
