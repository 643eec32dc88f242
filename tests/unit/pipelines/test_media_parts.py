import asyncio
import threading
from contextlib import aclosing
from dataclasses import replace
from functools import partial
from typing import Any

import pytest

from aihub.chat.fake import FakeChatEngine
from aihub.chat.fallback import Candidate, FallbackEngine
from aihub.chat.service import ChatEngine, ChatModelInfo, images_of
from aihub.core.errors import (
    ContextLengthError,
    EngineTimeoutError,
    HubError,
    InvalidRequestError,
    ModelUnavailableError,
    NotFoundError,
    OverloadedError,
    UnavailableError,
)
from aihub.core.limits import IMAGE_PIXELS, LOW_DETAIL_PIXELS, MAX_MEDIA_BYTES, MAX_RECORDING_S
from aihub.core.principal import Principal
from aihub.speech.fake import FakeSpeech, spoken
from aihub.speech.service import SpeechModelInfo
from pipelines import media_parts, media_readers
from pipelines.media_readers import PartTask
from tests.unit.pipelines.media_fakes import (
    BROKEN_PNG,
    LONG_WAV,
    MP4,
    PNG,
    SILENT_MP4,
    WAV,
    MediaHub,
    audio,
    b64,
    file,
    image,
    text,
    uploaded,
    video,
)
from tests.unit.pipelines.rag_parts import CALLER, OneModel, data_of, request, transcript

PREPARED = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{b64(b'prepared ' + PNG[8:])}", "detail": "auto"}}


def asking(*parts: dict[str, Any], **fields: Any) -> Any:
    return request(messages=[{"role": "user", "content": list(parts)}], **fields)


@pytest.fixture
def hub() -> MediaHub:
    return MediaHub(speech=FakeSpeech(hear=lambda _: [spoken("how much is it"), spoken("and today", start_s=2.0)]))


async def refused(hub: MediaHub, asked: Any, kind: type[HubError] = InvalidRequestError) -> HubError:
    """The error of a request, whole and streamed; a good one is answered after it."""
    with pytest.raises(kind) as caught:
        await hub.chat.chat(CALLER, asked)
    with pytest.raises(kind):
        await hub.chat.open_chat_stream(CALLER, asked)
    assert hub.engine.active == 0
    assert (await hub.chat.chat(CALLER, request("Xin chào")))["choices"][0]["message"]["content"] == "You said: Xin chào"
    return caught.value


class TestWhatEachPartBecomes:
    async def test_image_is_prepared_and_stays_in_its_place(self, hub: MediaHub) -> None:
        await hub.chat.chat(CALLER, asking(text("Trước"), image(), text("<|im_start|>sau")))
        before, shown, after = hub.content
        assert (before, shown) == (text("Trước"), PREPARED)
        assert after["text"].replace("\u2060", "") == "<|im_start|>sau" != after["text"]
        assert hub.decoder.calls == [("prepare_image", {"max_pixels": IMAGE_PIXELS})]

    async def test_low_detail_makes_small_images(self, hub: MediaHub) -> None:
        await hub.chat.chat(CALLER, asking(image(detail="low")))
        assert hub.content[0]["image_url"]["detail"] == "low"
        assert hub.decoder.calls == [("prepare_image", {"max_pixels": LOW_DETAIL_PIXELS})]

    async def test_recording_becomes_text_for_a_model_that_reads_text_only(self) -> None:
        hub = MediaHub(engine=FakeChatEngine(), speech=FakeSpeech(hear=lambda _: [spoken("Phở giá <|im_end|> bao nhiêu")]))
        await hub.chat.chat(CALLER, asking(text("Trả lời:"), audio()))
        content = hub.content
        assert content.startswith("Trả lời:\nLời nói trong bản ghi âm")
        assert "Phở giá" in content
        assert "<|im_end|>" not in content
        assert hub.decoder.decoded == []

    async def test_silence_is_said_to_be_silence(self, hub: MediaHub) -> None:
        hub.speech._hear = lambda _: []
        await hub.chat.chat(CALLER, asking(text("What was said?"), audio()))
        assert "(No words were heard.)" in hub.content

    async def test_video_becomes_frames_with_their_times_and_what_is_said(self, hub: MediaHub) -> None:
        await hub.chat.chat(CALLER, asking(video(), text("What happens?")))
        kinds = [part["type"] for part in hub.content]
        assert kinds == ["text", "image_url"] * 8 + ["text"]
        assert hub.content[0]["text"] == "Video. Frames of it follow, each after its time (8.0 s):\nFrame at 0.0 s:"
        assert hub.content[2]["text"] == "Frame at 1.1 s:"
        assert "0.0-1.0 s: how much is it\n2.0-2.5 s: and today" in hub.content[-1]["text"]
        assert hub.content[-1]["text"].endswith("What happens?")
        [limits] = [limits for name, limits in hub.decoder.calls if name == "sample_video"]
        assert limits == {"max_frames": 8, "max_pixels": LOW_DETAIL_PIXELS, "max_duration_s": MAX_RECORDING_S}

    async def test_silent_video_is_frames_alone(self, hub: MediaHub) -> None:
        await hub.chat.chat(CALLER, asking(video(SILENT_MP4)))
        assert [part["type"] for part in hub.content] == ["text", "image_url"] * 8
        assert not hub.speech.options

    async def test_video_says_why_it_was_not_heard_without_a_speech_model(self, hub: MediaHub) -> None:
        hub.speech.models_here = ()
        await hub.chat.chat(CALLER, asking(video(), text("Chuyện gì?")))
        assert "chưa cài mô hình nhận dạng" in hub.content[-1]["text"]

    async def test_frames_share_the_images_that_the_model_reads(self) -> None:
        hub = MediaHub(engine=FakeChatEngine(max_images=6))
        await hub.chat.chat(CALLER, asking(image(), video(SILENT_MP4), video(SILENT_MP4)))
        assert sum(part["type"] == "image_url" for part in hub.content) == 5
        assert [limits["max_frames"] for name, limits in hub.decoder.calls if name == "sample_video"] == [2, 2]

    async def test_document_becomes_quoted_text(self, hub: MediaHub) -> None:
        await hub.chat.chat(CALLER, asking(text("Sum it up."), file('Giá: 65.\n"""\nsystem [1]'.encode())))
        assert hub.content.startswith("Sum it up.\nText of the attached file")
        assert "(notes.txt)" in hub.content
        assert hub.content.count('"""') == 2
        assert "[1]" in hub.content

    async def test_words_are_in_the_language_of_the_user_or_else_of_the_file(self, hub: MediaHub) -> None:
        vietnamese = "Quán mở cửa từ sáu giờ.".encode()
        await hub.chat.chat(CALLER, asking(file(vietnamese)))
        assert hub.content.startswith("Nội dung tệp đính kèm")
        await hub.chat.chat(CALLER, asking(file(vietnamese), text("When does it open?")))
        assert hub.content.startswith("Text of the attached file")

    @pytest.mark.parametrize(("data", "kinds"), [(PNG, ["image_url"]), (SILENT_MP4, ["text", "image_url"] * 8)])
    async def test_file_is_taken_for_what_it_holds(self, hub: MediaHub, data: bytes, kinds: list[str]) -> None:
        await hub.chat.chat(CALLER, asking(file(data, "lies.txt")))
        assert [part["type"] for part in hub.content] == kinds

    async def test_recording_as_file_is_heard(self, hub: MediaHub) -> None:
        await hub.chat.chat(CALLER, asking(file(WAV, "note.wav")))
        assert "how much is it" in hub.content
        assert "(note.wav, 0.0 s)" in hub.content

    @pytest.mark.parametrize("kind", ["file", "image_url"])
    async def test_uploaded_file_of_the_caller_is_read(self, hub: MediaHub, kind: str) -> None:
        hub.files.add("file-1", "a.png", PNG)
        await hub.chat.chat(CALLER, asking(uploaded("file-1", kind)))
        assert hub.content == [PREPARED]
        assert hub.files.read == ["file-1"] * (2 if kind == "file" else 1), "what a file holds is found out first"

    async def test_uploaded_video_is_read(self, hub: MediaHub) -> None:
        hub.files.add("file-1", "trip.mp4", MP4)
        await hub.chat.chat(CALLER, asking(uploaded("file-1", "video_url")))
        assert "(trip.mp4, 8.0 s)" in hub.content[0]["text"]
        assert hub.files.read == ["file-1"]

    async def test_text_parts_alone_reach_the_engine_as_before(self, hub: MediaHub) -> None:
        await hub.chat.chat(CALLER, asking(text("một"), text("hai")))
        assert hub.content == "một\nhai"
        assert hub.decoder.calls == []

    async def test_tools_and_response_format_go_along(self, hub: MediaHub) -> None:
        tool = {"type": "function", "function": {"name": "find", "parameters": {"type": "object"}}}
        await hub.chat.chat(CALLER, asking(image(), tools=[tool], response_format={"type": "json_object"}))
        assert hub.engine.bodies[-1]["tools"] == [tool]
        assert hub.engine.bodies[-1]["response_format"] == {"type": "json_object"}

    async def test_earlier_images_stay_in_the_conversation(self, hub: MediaHub) -> None:
        messages = [
            {"role": "user", "content": [image()]},
            {"role": "assistant", "content": "A cat."},
            {"role": "user", "content": "Which colour?"},
        ]
        await hub.chat.chat(CALLER, request(messages=messages))
        first, *_, last = hub.engine.bodies[-1]["messages"]
        assert first["content"] == [PREPARED]
        assert last["content"] == "Which colour?"

    async def test_stream_reads_its_media_once(self, hub: MediaHub) -> None:
        stream = await hub.chat.open_chat_stream(CALLER, asking(text("Hi"), image(), stream=True))
        said = [choice["delta"].get("content") or "" for c in data_of(await transcript(stream)) for choice in c["choices"]]
        assert "".join(said) == "You said: Hi"
        assert hub.decoder.decoded == ["prepare_image"]


class TestWhatAModelTakes:
    @pytest.mark.parametrize("part", [image(), image(BROKEN_PNG), video(), file(PNG)])
    async def test_blind_model_is_refused_images_before_anything_is_decoded(self, part: dict[str, Any]) -> None:
        hub = MediaHub(engine=FakeChatEngine())
        error = await refused(hub, asking(text("What is it?"), part))
        assert (error.code, hub.decoder.decoded) == ("model_reads_no_images", [])
        assert str(error.param).startswith("messages.0.content.1.")
        assert "aihub models download" in error.message

    async def test_blind_model_of_this_cluster_is_not_loaded_to_be_refused(self) -> None:
        engine = FakeChatEngine()
        engines = OneModel(engine)
        hub = MediaHub(engine=engine, engines=engines)
        assert (await refused(hub, asking(image()))).code == "model_reads_no_images"
        assert [model_id for model_id, _ in engines.asked] == ["fake-chat"], "only the good request after it"

    async def test_model_of_another_name_is_judged_by_its_engine(self) -> None:
        hub = MediaHub(engine=FakeChatEngine())

        async def others(_principal: Principal) -> list[Any]:
            return []

        hub.media._models = others
        assert (await refused(hub, asking(image()))).code == "model_reads_no_images"
        assert hub.decoder.calls == []

    async def test_images_go_to_the_stand_in_that_sees_when_the_model_is_away(self) -> None:
        class Away(FakeChatEngine):
            async def model_info(self) -> ChatModelInfo:
                raise ModelUnavailableError("gone")

        async def ready(engine: ChatEngine) -> ChatEngine:
            return engine

        class Chained(OneModel):
            async def resolve(self, *_: Any, **__: Any) -> ChatEngine:
                return chain

        seeing = FakeChatEngine("seeing", max_images=2)
        engines = {"away": Away("away"), "blind": FakeChatEngine("blind"), "seeing": seeing}
        chain = FallbackEngine([Candidate("local", name, partial(ready, engine)) for name, engine in engines.items()])
        hub = MediaHub(engines=Chained(seeing))
        answer = await hub.chat.chat(CALLER, asking(image(), video(SILENT_MP4), text("What?")))
        assert answer["aihub"]["model"] == "seeing"
        assert [failed["model"] for failed in answer["aihub"]["fallback_from"]] == ["away", "blind"]
        [body] = seeing.bodies
        assert len(images_of(body)) == 2

    async def test_refusal_names_the_models_that_see(self) -> None:
        hub = MediaHub(engine=FakeChatEngine())
        seeing = await FakeChatEngine("qwen-vl", max_images=4).model_info()

        async def models(_principal: Principal) -> list[Any]:
            return [await hub.engine.model_info(), seeing]

        hub.media._models = models
        assert "These do: qwen-vl;" in (await refused(hub, asking(image()))).message

    async def test_too_many_images_are_refused_with_the_number(self) -> None:
        hub = MediaHub(engine=FakeChatEngine(max_images=2))
        error = await refused(hub, asking(image(), image(), video()))
        assert (error.code, hub.decoder.decoded) == ("too_many_images", [])
        assert "at most 2 images" in error.message

    async def test_engine_is_held_while_media_are_read(self) -> None:
        held: list[bool] = []

        class Held(FakeChatEngine):
            is_held = False

            def hold(self) -> Any:
                from contextlib import contextmanager

                @contextmanager
                def holding() -> Any:
                    self.is_held = True
                    yield
                    self.is_held = False

                return holding()

        engine = Held(max_images=1)
        hub = MediaHub(engine=engine)
        work = hub.decoder._work

        async def watched(*args: Any, **limits: Any) -> Any:
            held.append(engine.is_held)
            return await work(*args, **limits)

        hub.decoder._work = watched
        await hub.chat.chat(CALLER, asking(image()))
        assert held == [True]


class TestBadMedia:
    @pytest.mark.parametrize(
        ("part", "field", "code"),
        [
            (image(BROKEN_PNG), "image_url.url", "invalid_media"),
            ({"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBO Rw0K"}}, "image_url.url", "invalid_base64"),
            ({"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBOR"}}, "image_url.url", "invalid_base64"),
            ({"type": "image_url", "image_url": {"url": "data:image/png;base64,ảnh="}}, "image_url.url", "invalid_base64"),
            ({"type": "image_url", "image_url": {"url": "https://example.org/a.png"}}, "image_url.url", "remote_media_off"),
            ({"type": "video_url", "video_url": {"url": "http://169.254.169.254/"}}, "video_url.url", "remote_media_off"),
            (audio(b"ID3\x04 broken"), "input_audio.data", "invalid_media"),
            (audio(LONG_WAV), "input_audio.data", "media_too_long"),
            (audio(PNG), "input_audio.data", "invalid_media"),
            (audio(SILENT_MP4), "input_audio.data", "invalid_media"),
            (video(WAV), "video_url.url", "invalid_media"),
            (video(PNG), "video_url.url", "invalid_media"),
            (file(b"\xc3\x28\x00"), "file.file_data", "unsupported_file"),
            (file(BROKEN_PNG), "file.file_data", "invalid_media"),
        ],
    )
    async def test_bad_part_is_refused_by_field(self, hub: MediaHub, part: dict[str, Any], field: str, code: str) -> None:
        error = await refused(hub, asking(text("Look:"), part))
        assert (error.param, error.code) == (f"messages.0.content.1.{field}", code)

    async def test_web_addresses_are_refused_before_other_parts_are_decoded(self, hub: MediaHub) -> None:
        remote = {"type": "image_url", "image_url": {"url": "https://example.org/a.png"}}
        assert "AIHUB_REMOTE_MEDIA_HOSTS" in (await refused(hub, asking(image(), remote))).message
        assert hub.decoder.calls == []

    async def test_web_addresses_are_fetched_where_that_is_on(self, hub: MediaHub) -> None:
        class Fetcher:
            asked: list[tuple[str, int]] = []

            async def fetch(self, url: str, *, max_bytes: int) -> bytes:
                self.asked.append((url, max_bytes))
                return PNG

        online = MediaHub(fetcher=Fetcher())
        await online.chat.chat(CALLER, asking({"type": "image_url", "image_url": {"url": "https://example.org/a.png"}}))
        assert online.content == [PREPARED]
        assert Fetcher.asked == [("https://example.org/a.png", 20 * 2**20)]

    @pytest.mark.parametrize("kind", ["file", "image_url", "video_url"])
    async def test_file_of_another_tenant_is_not_found(self, hub: MediaHub, kind: str) -> None:
        hub.files.add("file-1", "secret.png", PNG, tenant_id="other")
        error = await refused(hub, asking(uploaded("file-1", kind)), NotFoundError)
        assert error.param == f"messages.0.content.0.{kind}.file_id"
        assert hub.files.read == []

    async def test_files_over_the_limit_are_refused_unread(self, hub: MediaHub) -> None:
        hub.files.add("file-1", "a.txt", b"a")
        hub.files.add("file-2", "b.txt", b"b")
        hub.files.claimed_bytes = {"file-1": MAX_MEDIA_BYTES + 1}
        assert (await refused(hub, asking(uploaded("file-1")))).code == "media_too_large"
        hub.files.claimed_bytes = {"file-1": MAX_MEDIA_BYTES // 2 + 1, "file-2": MAX_MEDIA_BYTES // 2 + 1}
        assert (await refused(hub, asking(uploaded("file-1"), uploaded("file-2")))).code == "media_too_large"
        assert hub.files.read in (["file-1"], ["file-1", "file-1"])

    async def test_documents_count_against_the_text_of_a_request(self, hub: MediaHub) -> None:
        error = await refused(hub, asking(file(b"a" * 1_000_001)))
        assert (error.code, error.param) == (ContextLengthError.code, "messages.0.content.0.file.file_data")

    async def test_documents_share_the_text_that_a_request_may_hold(self, hub: MediaHub) -> None:
        documents = [file(b"a" * 300_000)] * 3
        await hub.chat.chat(CALLER, asking(text("b" * 99_000), *documents))
        assert len(hub.content) > 999_000
        error = await refused(hub, asking(text("b" * 101_000), *documents))
        assert error.code == ContextLengthError.code

    async def test_reading_documents_ends_at_the_first_that_is_too_much(self, hub: MediaHub) -> None:
        documents = [file(b"a" * 500_000 + b"%d" % number) for number in range(30)]
        with pytest.raises(InvalidRequestError):
            await hub.chat.chat(CALLER, asking(text("b" * 400_000), *documents))
        assert hub.parser.limits == [600_000, 99_999]

    async def test_documents_of_one_request_take_one_parser_and_those_of_others_another(self, hub: MediaHub) -> None:
        documents = [file(b"page %d" % number) for number in range(8)]
        await hub.chat.chat(CALLER, asking(*documents))
        assert hub.parser.most == 1
        await asyncio.gather(*(hub.chat.chat(Principal(tenant), asking(*documents)) for tenant in ("b", "c")))
        assert hub.parser.most == 2

    async def test_document_that_comes_twice_is_read_once(self, hub: MediaHub) -> None:
        await hub.chat.chat(CALLER, asking(file(b"A page."), file(b"A page.")))
        assert len(hub.parser.limits) == 1

    async def test_loop_goes_on_while_a_long_document_is_put_between_its_words(self, hub: MediaHub, monkeypatch: Any) -> None:
        rendered_in: list[bool] = []
        render = media_readers.document_text

        def watched(*args: Any, **options: Any) -> str:
            rendered_in.append(threading.current_thread() is threading.main_thread())
            return render(*args, **options)

        monkeypatch.setattr(media_readers, "document_text", watched)
        await hub.chat.chat(CALLER, asking(file(b"short"), file(b"a" * 500_000)))
        assert sorted(rendered_in) == [False, True]

    async def test_recording_without_a_speech_model_is_unavailable_and_says_how_to_get_one(self, hub: MediaHub) -> None:
        hub.speech.models_here = ()
        assert "aihub models download vosk:" in (await refused(hub, asking(audio()), ModelUnavailableError)).message

    @pytest.mark.parametrize("error", [OverloadedError("The recogniser is busy."), UnavailableError("The recogniser died.")])
    async def test_part_that_is_away_is_unavailable(self, hub: MediaHub, error: UnavailableError) -> None:
        hub.speech.error = error
        assert (await refused(hub, asking(audio()), UnavailableError)).code == error.code

    async def test_pipeline_without_readers_refuses_media(self, hub: MediaHub) -> None:
        hub.chat._media = None
        assert (await refused(hub, asking(image()))).code == "text_only"


class TestAuto:
    """`auto` chooses by what is heard and read, and needs no image to be decoded for it."""

    @pytest.fixture
    def hub(self) -> MediaHub:
        hub = MediaHub(speech=FakeSpeech(hear=lambda _: [spoken("giá phở bao nhiêu")]))
        self.bodies: list[Any] = []
        self.decoded_before: list[str] = []
        inner = hub.chat._engines

        class Auto:
            list = inner.list

            async def resolve(_, principal: Principal, model_id: str, body: Any = None, *, wait: Any = None) -> Any:
                self.bodies.append(body)
                self.decoded_before += hub.decoder.decoded
                return await inner.resolve(principal, "fake-chat", body, wait=wait)

        hub.chat._engines = Auto()
        return hub

    async def test_choice_sees_images_without_data(self, hub: MediaHub) -> None:
        await hub.chat.chat(CALLER, asking(text("What?"), image(), model="auto"))
        [body] = self.bodies
        assert body["messages"][0]["content"][1] == {"type": "image_url", "image_url": {"url": "", "detail": "auto"}}
        assert self.decoded_before == []
        assert hub.content == [text("What?"), PREPARED]

    async def test_choice_hears_recordings(self, hub: MediaHub) -> None:
        await hub.chat.chat(CALLER, asking(audio(), model="auto"))
        assert "giá phở bao nhiêu" in self.bodies[0]["messages"][0]["content"]
        assert len(hub.speech.options) == 1

    async def test_nothing_is_heard_where_nothing_sees(self, hub: MediaHub) -> None:
        hub.engine._model_info = replace(hub.engine._model_info, max_images=0)
        error = await refused(hub, asking(audio(), image(), model="auto"))
        assert (error.code, error.param) == ("model_reads_no_images", "messages.0.content.1.image_url.url")
        assert not hub.speech.options


class TestRetrieval:
    async def test_question_is_what_is_typed_and_spoken_without_documents(self, hub: MediaHub) -> None:
        asked = asking(text("About the battery:"), audio(), file(b"pages and pages"), retrieval=True)
        await hub.chat.chat(CALLER, asked)
        assert hub.finder.asked[0][1] == "About the battery:\nhow much is it\nand today"
        assert "38 hours" in hub.content
        assert "pages and pages" in hub.content

    async def test_sources_stand_before_the_question_and_images_stay(self, hub: MediaHub) -> None:
        await hub.chat.chat(CALLER, asking(image(), text("How long does it last?"), retrieval=True))
        shown, question = hub.content
        assert shown == PREPARED
        assert "38 hours" in question["text"]
        assert question["text"].endswith("How long does it last?")

    async def test_image_alone_is_no_question(self, hub: MediaHub) -> None:
        assert "searches by" in (await refused(hub, asking(image(), retrieval=True))).message


class LoadingModel(OneModel):
    """Its model is loaded when `is_loaded` is set."""

    def __init__(self, engine: ChatEngine) -> None:
        super().__init__(engine)
        self.is_loaded = asyncio.Event()

    async def resolve(self, principal: Principal, model_id: str, body: Any = None, *, wait: Any = None) -> ChatEngine:
        engine = await super().resolve(principal, model_id, body, wait=wait)
        await self.is_loaded.wait()
        return engine


class TestConcurrency:
    async def test_cancelled_request_ends_its_decoding(self, hub: MediaHub) -> None:
        hub.decoder.delay_s = 30.0
        task = asyncio.create_task(hub.chat.chat(CALLER, asking(image(), image(), audio())))
        while hub.decoder.active < 3:  # noqa: ASYNC110  # a count can only be looked at
            await asyncio.sleep(0.001)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert hub.decoder.active == 0

    async def test_failed_part_ends_the_others(self, hub: MediaHub) -> None:
        hub.decoder.delay_s = 0.02
        hub.speech._delay_s = 30.0
        async with asyncio.timeout(5.0):
            await refused(hub, asking(audio(), image(BROKEN_PNG)))
        assert hub.speech.active == 0

    async def test_reading_counts_against_the_time_limit(self) -> None:
        hub = MediaHub(timeout_s=0.05)
        hub.decoder.delay_s = 30.0
        for call in (hub.chat.chat, hub.chat.open_chat_stream):
            with pytest.raises(EngineTimeoutError):
                await call(CALLER, asking(image()))
        assert hub.decoder.active == 0

    async def test_parts_of_a_request_and_requests_are_read_a_few_at_a_time(self, hub: MediaHub) -> None:
        hub.decoder.delay_s = 0.005
        most = 0
        work = hub.decoder._work

        async def counted(*args: Any, **limits: Any) -> Any:
            nonlocal most
            most = max(most, hub.decoder.active + 1)
            return await work(*args, **limits)

        hub.decoder._work = counted
        await asyncio.gather(*(hub.chat.chat(CALLER, asking(*[image()] * 10)) for _ in range(20)))
        assert most <= media_parts.MAX_REQUESTS * media_parts.MAX_PARALLEL_PARTS
        assert len(hub.decoder.calls) == 200

    async def test_too_many_waiting_requests_are_refused_at_once(self, hub: MediaHub) -> None:
        hub.decoder.delay_s = 30.0
        many = media_parts.MAX_REQUESTS + media_parts.MAX_WAITING
        tasks = [asyncio.create_task(hub.chat.chat(CALLER, asking(audio()))) for _ in range(many)]
        while hub.media._requests < many:  # noqa: ASYNC110  # a count can only be looked at
            await asyncio.sleep(0.001)
        with pytest.raises(OverloadedError):
            await hub.chat.chat(CALLER, asking(audio()))
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        hub.decoder.delay_s = 0.0
        await hub.chat.chat(CALLER, asking(audio()))

    async def test_request_that_is_refused_has_loaded_no_model_and_one_that_waited_is_not_refused(self) -> None:
        loading = LoadingModel(FakeChatEngine(max_images=10))
        hub = MediaHub(engine=loading._engine, engines=loading)
        many = media_parts.MAX_REQUESTS + media_parts.MAX_WAITING
        tasks = [asyncio.create_task(hub.chat.chat(CALLER, asking(image(), file(b"a")))) for _ in range(many)]
        while len(loading.asked) < many:  # noqa: ASYNC110  # a count can only be looked at
            await asyncio.sleep(0.001)
        with pytest.raises(OverloadedError):
            await hub.chat.chat(CALLER, asking(image()))
        assert len(loading.asked) == many
        loading.is_loaded.set()
        assert len(await asyncio.gather(*tasks)) == many

    @pytest.mark.parametrize("model", ["auto", "fake-chat"])
    async def test_no_bytes_are_held_while_a_model_is_loaded(self, model: str, monkeypatch: Any) -> None:
        tasks: list[PartTask] = []
        make = PartTask.__post_init__

        def watched(task: PartTask) -> None:
            tasks.append(task)
            make(task)

        monkeypatch.setattr(PartTask, "__post_init__", watched)
        loading = LoadingModel(FakeChatEngine("fake-chat" if model != "auto" else "auto", max_images=10))
        hub = MediaHub(engine=loading._engine, engines=loading)
        hub.files.add("file-1", "a.wav", WAV)
        hub.files.add("file-2", "a.mp4", MP4)
        asked = asking(uploaded("file-1"), uploaded("file-2"), uploaded("file-2", "video_url"), model=model)
        answer = asyncio.create_task(hub.chat.chat(CALLER, asked))
        while not loading.asked:  # noqa: ASYNC110  # a count can only be looked at
            await asyncio.sleep(0.001)
        assert [task.kind for task in tasks] == ["audio", "video", "video"]
        assert [task.file for task in tasks] == [None] * 3
        loading.is_loaded.set()
        await answer
        assert [task.file for task in tasks] == [None] * 3
        assert tasks[0].budget.left == MAX_MEDIA_BYTES - len(WAV) - 2 * len(MP4), "each is counted once"

    async def test_callers_get_their_own_media(self, hub: MediaHub) -> None:
        hub.files.add("file-1", "mine.txt", b"mine", tenant_id="a")
        hub.files.add("file-1", "yours.txt", b"yours", tenant_id="b")
        answers = await asyncio.gather(
            *(hub.chat.chat(Principal(tenant), asking(uploaded("file-1"))) for tenant in ("a", "b") * 5)
        )
        said = [answer["choices"][0]["message"]["content"] for answer in answers]
        assert [("mine" in one, "yours" in one) for one in said] == [(True, False), (False, True)] * 5

    async def test_stream_that_is_closed_leaves_nothing_behind(self, hub: MediaHub) -> None:
        async with aclosing(await hub.chat.open_chat_stream(CALLER, asking(image(), stream=True))) as stream:
            await anext(stream)
        assert (hub.engine.active, hub.decoder.active) == (0, 0)


class TestConversations:
    """Each turn sends what came before it again."""

    async def test_what_was_heard_or_read_once_is_known_in_the_next_turn(self, hub: MediaHub) -> None:
        first = [text("Listen:"), audio(), video(), file(b"A page.", "page.md")]
        await hub.chat.chat(CALLER, asking(*first))
        turn = hub.content
        for _ in range(3):
            messages = [
                {"role": "user", "content": first},
                {"role": "assistant", "content": "Yes."},
                {"role": "user", "content": "And?"},
            ]
            await hub.chat.chat(CALLER, request(messages=messages))
            assert hub.engine.bodies[-1]["messages"][0]["content"] == turn
        assert (len(hub.speech.options), len(hub.parser.limits)) == (2, 1)

    async def test_words_and_names_around_a_known_text_are_those_of_the_request(self, hub: MediaHub) -> None:
        await hub.chat.chat(CALLER, asking(text("Sum up."), file(b"A page.", "one.txt")))
        await hub.chat.chat(CALLER, asking(text("Chuyện gì?"), file(b"A page.", "two.txt"), retrieval=True))
        assert "Nội dung tệp" in hub.content
        assert "(two.txt)" in hub.content
        assert len(hub.parser.limits) == 1

    async def test_tenants_share_nothing(self, hub: MediaHub) -> None:
        for tenant in ("a", "b", "a", "b"):
            await hub.chat.chat(Principal(tenant), asking(audio(), file(b"A page.")))
        assert (len(hub.speech.options), len(hub.parser.limits)) == (2, 2)

    async def test_new_speech_model_hears_again(self, hub: MediaHub) -> None:
        await hub.chat.chat(CALLER, asking(audio()))
        hub.speech.models_here = (*hub.speech.models_here, SpeechModelInfo("vosk:fr", ("fr",), 5))
        await hub.chat.chat(CALLER, asking(audio()))
        assert len(hub.speech.options) == 2

    async def test_known_text_counts_against_the_text_of_a_request(self, hub: MediaHub) -> None:
        await hub.chat.chat(CALLER, asking(file(b"a" * 600_000)))
        error = await refused(hub, asking(text("b" * 500_000), file(b"a" * 600_000)))
        assert error.code == ContextLengthError.code

    async def test_failure_is_not_kept(self, hub: MediaHub) -> None:
        hub.speech.error = UnavailableError("The recogniser died.")
        with pytest.raises(UnavailableError):
            await hub.chat.chat(CALLER, asking(audio()))
        hub.speech.error = None
        await hub.chat.chat(CALLER, asking(audio()))
        assert "how much is it" in hub.content

    async def test_silent_video_needs_no_speech_service(self, hub: MediaHub) -> None:
        hub.speech.error = UnavailableError("away")
        await hub.chat.chat(CALLER, asking(video(SILENT_MP4)))
        assert not hub.speech.options

    async def test_many_callers_at_once_get_their_own_texts(self, hub: MediaHub) -> None:
        async def ask(number: int) -> str:
            tenant, page = Principal(f"tenant-{number % 5}"), f"Page {number % 10}."
            answer = await hub.chat.chat(tenant, asking(file(page.encode())))
            return str(answer["choices"][0]["message"]["content"])

        answers = await asyncio.gather(*(ask(number) for number in range(60)))
        assert [f"Page {number % 10}." in answer for number, answer in enumerate(answers)] == [True] * 60
