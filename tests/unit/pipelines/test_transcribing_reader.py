"""Recordings by what is said, images by what a vision model says of them, and why a file has no text."""

import asyncio
import base64
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aihub.chat.fake import FakeChatEngine
from aihub.chat.service import ChatEngine, ChatModelInfo
from aihub.core.errors import EngineTimeoutError, HubError, ModelUnavailableError, OverloadedError, UnavailableError
from aihub.core.limits import IMAGE_PIXELS
from aihub.core.principal import Principal
from aihub.documents.parsing.clean import DocumentError, clean
from aihub.documents.service import MediaText
from aihub.media.service import MediaDecoder, MediaError, MediaFacts, PreparedImage, SampledVideo
from aihub.speech.fake import FakeSpeech, spoken
from aihub.speech.service import RecognitionOptions, Segment, TranscriptionEvent, TranscriptionStart, Word
from pipelines.chat import EngineDirectory, model_not_found
from pipelines.load_wait import LoadWait
from pipelines.prompts import load_prompts
from pipelines.transcribing_reader import TranscribingReader, TranscriptText

CALLER = Principal("tenant-a")
AUDIO = MediaFacts("audio", "wav", 4.0, has_audio=True)
VIDEO = MediaFacts("video", "mp4", 4.0, has_audio=True, width=64, height=64)
SILENT_VIDEO = MediaFacts("video", "mp4", 4.0, width=64, height=64)
IMAGE = MediaFacts("image", "png", width=64, height=48)
OPENING = (spoken("the shop opens at eight", start_s=1.0), spoken("it closes at nine", start_s=4.5))


@dataclass
class KnowingDecoder:
    """Says `facts` of everything; raises `error` when it is set."""

    facts: MediaFacts
    error: HubError | None = None
    prepared: list[int] = field(default_factory=list)

    async def probe(self, data: bytes) -> MediaFacts:
        if self.error is not None:
            raise self.error
        return self.facts

    async def prepare_image(self, data: bytes, *, max_pixels: int) -> PreparedImage:
        self.prepared.append(max_pixels)
        return PreparedImage(b"pixels of " + data, "image/png", 32, 24)

    def decode_audio(self, data: bytes | AsyncIterator[bytes], *, max_duration_s: float) -> AsyncGenerator[bytes, None]:
        raise AssertionError("sound is decoded by the speech service")

    async def sample_video(self, data: bytes, *, max_frames: int, max_pixels: int, max_duration_s: float) -> SampledVideo:
        raise AssertionError("frames are not looked at")


class SeeingEngine(FakeChatEngine):
    """Says `caption` of every image."""

    def __init__(self, model_id: str = "seeing", caption: str | None = "Một con mèo.", finish_reason: str = "stop") -> None:
        super().__init__(model_id)
        self.caption, self.finish_reason = caption, finish_reason

    async def chat(self, body: dict[str, Any]) -> dict[str, Any]:
        if self.error is not None:
            raise self.error
        self.bodies.append(body)
        message = {"role": "assistant", "content": self.caption}
        return {"choices": [{"index": 0, "message": message, "finish_reason": self.finish_reason}]}


@dataclass
class LocalModels:
    """The models of a hub, and which of them see."""

    engines: Sequence[FakeChatEngine] = ()
    seeing: frozenset[str] = frozenset({"seeing"})
    resolved: list[str] = field(default_factory=list)
    context_tokens: int = 4096

    async def list(self, principal: Principal) -> list[ChatModelInfo]:
        names = [(await engine.model_info()).model_id for engine in self.engines]
        return [ChatModelInfo(name, self.context_tokens, 0, max_images=4 if name in self.seeing else 0) for name in names]

    async def resolve(
        self, principal: Principal, model_id: str, body: Mapping[str, Any] | None = None, *, wait: LoadWait | None = None
    ) -> ChatEngine:
        self.resolved.append(model_id)
        for engine in self.engines:
            if (await engine.model_info()).model_id == model_id:
                return engine
        raise model_not_found(model_id, [])


class BreakingSpeech(FakeSpeech):
    """Its streams end with an error of `breaks` after the first segment, as long as there are any."""

    def __init__(self, breaks: list[HubError | None]) -> None:
        super().__init__(hear=lambda audio: OPENING)
        self.breaks = breaks
        self.tries = 0

    async def stream_transcription(
        self, principal: Principal, audio: bytes, options: RecognitionOptions
    ) -> AsyncGenerator[TranscriptionEvent, None]:
        self.tries += 1
        failing = bool(self.breaks)
        async for event in super().stream_transcription(principal, audio, options):
            yield event
            if failing and not isinstance(event, TranscriptionStart):
                error = self.breaks.pop(0)
                if error is None:
                    return
                raise error


def reader(
    facts: MediaFacts = AUDIO,
    *,
    speech: FakeSpeech | None = None,
    models: EngineDirectory | None = None,
    decoder: MediaDecoder | None = None,
    language: str = "en",
) -> TranscribingReader:
    return TranscribingReader(
        decoder=decoder or KnowingDecoder(facts),
        speech=speech or FakeSpeech(hear=lambda audio: OPENING),
        engines=models or LocalModels([SeeingEngine()]),
        prompts=load_prompts(),
        caption_language=language,
    )


@pytest.mark.parametrize(("facts", "kind"), [(AUDIO, "audio"), (VIDEO, "video")])
async def test_recording_is_read_as_paragraphs_with_the_time_of_every_word(facts: MediaFacts, kind: str) -> None:
    media = await reader(facts).read(CALLER, b"sound")
    assert (media.kind, media.text) == (kind, "the shop opens at eight\n\nit closes at nine")
    heard = [word for segment in OPENING for word in segment.words]
    assert [media.text[span.start_char : span.end_char] for span in media.spans] == [word.text for word in heard]
    assert [(span.start_s, span.end_s) for span in media.spans] == [(word.start_s, word.end_s) for word in heard]


async def test_any_installed_model_may_listen() -> None:
    speech = FakeSpeech(hear=lambda audio: OPENING)
    await reader(speech=speech).read(CALLER, b"sound")
    assert list(speech.options) == [RecognitionOptions(model="auto")]


def test_words_are_cleaned_before_they_are_counted() -> None:
    transcript = TranscriptText()
    words = (Word(" \ufeffHo\u031b\u0323p", 0.0, 0.5, 1.0), Word("đồng\u2028mới\0", 0.5, 1.0, 1.0))
    transcript.add(Segment("x", 0.0, 2.0, words))
    transcript.add(Segment("", 2.0, 3.0, (Word(" \x1f", 2.0, 3.0, 1.0),)))
    assert transcript.text == "Hợp đồng mới" == clean(transcript.text)
    assert [transcript.text[span.start_char : span.end_char] for span in transcript.spans] == ["Hợp", "đồng mới"]


def test_segment_without_words_has_one_time() -> None:
    transcript = TranscriptText()
    transcript.add(Segment("xin chào", 1.0, 2.0))
    assert transcript.text == "xin chào"
    assert [(span.start_char, span.end_char, span.start_s, span.end_s) for span in transcript.spans] == [(0, 8, 1.0, 2.0)]


@given(st.lists(st.lists(st.text(max_size=5), min_size=1, max_size=4), max_size=5))
def test_every_transcript_is_as_stored_text_must_be(segments: list[list[str]]) -> None:
    transcript = TranscriptText()
    for said in segments:
        transcript.add(Segment(" ".join(said), 0.0, 1.0, tuple(Word(word, 0.0, 1.0, 1.0) for word in said)))
    assert clean(transcript.text) == transcript.text
    covered = "".join(transcript.text[span.start_char : span.end_char] for span in transcript.spans)
    assert "".join(covered.split()) == "".join(transcript.text.split())


async def refusal(reading: TranscribingReader) -> DocumentError:
    with pytest.raises(DocumentError) as refused:
        await reading.read(CALLER, b"data")
    return refused.value


@pytest.mark.parametrize("facts", [AUDIO, VIDEO])
async def test_without_a_speech_model_the_file_is_refused_and_what_to_install_is_said(facts: MediaFacts) -> None:
    speech = FakeSpeech()
    speech.models_here = ()
    error = await refusal(reader(facts, speech=speech))
    assert error.code == "unsupported_file"
    assert "aihub models download vosk:vi" in error.message


async def test_silence_is_refused() -> None:
    error = await refusal(reader(speech=FakeSpeech(hear=lambda audio: ())))
    assert (error.code, error.message) == ("empty_file", "Nothing that is said was heard in the audio file.")


async def test_video_without_sound_is_refused() -> None:
    assert "no sound" in (await refusal(reader(SILENT_VIDEO))).message


@pytest.mark.parametrize(
    ("code", "told"),
    [
        ("invalid_media", "invalid_file"),
        ("unsupported_media", "unsupported_file"),
        ("empty_media", "empty_file"),
        ("image_too_large", "too_large"),
        ("media_memory", "parse_memory"),
        ("media_timeout", "parse_timeout"),
    ],
)
async def test_media_that_cannot_be_decoded_are_refused_with_the_decoders_reason(code: str, told: str) -> None:
    error = await refusal(reader(decoder=KnowingDecoder(AUDIO, MediaError("The reason.", code=code))))
    assert (error.code, error.message) == (told, "The reason.")


async def test_recording_that_is_too_long_is_refused_by_the_speech_services_reason() -> None:
    speech = FakeSpeech()
    speech.error = MediaError("It lasts longer than 4 hours.", code="media_too_long")
    error = await refusal(reader(speech=speech))
    assert (error.code, error.message) == ("too_large", "It lasts longer than 4 hours.")


@pytest.mark.parametrize("error", [ModelUnavailableError("Restarting."), OverloadedError("Busy."), UnavailableError("Stopping.")])
async def test_speech_service_that_is_away_or_busy_is_no_fault_of_the_file(error: HubError) -> None:
    speech = FakeSpeech()
    speech.error = error
    with pytest.raises(type(error)):
        await reader(speech=speech).read(CALLER, b"sound")


async def test_recording_whose_recogniser_died_is_heard_once_more_from_the_start() -> None:
    speech = BreakingSpeech([UnavailableError("The recogniser ended.", code="recogniser_died")])
    media = await reader(speech=speech).read(CALLER, b"sound")
    assert (media.text, speech.tries) == ("the shop opens at eight\n\nit closes at nine", 2)


async def test_recording_that_ends_every_recogniser_is_refused_and_the_next_is_read() -> None:
    speech = BreakingSpeech([UnavailableError("The recogniser ended.", code="recogniser_died")] * 2)
    reading = reader(speech=speech)
    assert "ends its recogniser" in (await refusal(reading)).message
    assert (await reading.read(CALLER, b"sound")).text


async def test_transcription_without_an_end_is_not_taken_for_whole() -> None:
    with pytest.raises(UnavailableError, match="before the end"):
        await reader(speech=BreakingSpeech([None])).read(CALLER, b"sound")


async def test_cancelled_reading_stops_the_transcription() -> None:
    speech = FakeSpeech(hear=lambda audio: OPENING, delay_s=60.0)
    task = asyncio.create_task(reader(speech=speech).read(CALLER, b"sound"))
    async with asyncio.timeout(5):
        while speech.active == 0:  # noqa: ASYNC110  # what is counted has no event
            await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert speech.active == 0


async def test_readings_at_the_same_time_do_not_mix() -> None:
    speech = FakeSpeech(hear=lambda audio: [spoken(audio.decode())], delay_s=0.01)
    reading = reader(speech=speech)
    texts = [f"tệp số {number}" for number in range(8)]
    media = await asyncio.gather(*(reading.read(CALLER, text.encode()) for text in texts))
    assert [one.text for one in media] == texts


@pytest.mark.parametrize(("language", "used"), [("en", "en"), ("vi", "vi"), ("fr", "en")])
async def test_image_is_read_by_the_caption_of_a_model_that_sees(language: str, used: str) -> None:
    engine = SeeingEngine()
    models = LocalModels([FakeChatEngine("text-only"), engine, SeeingEngine("seeing-too")], frozenset({"seeing", "seeing-too"}))
    decoder = KnowingDecoder(IMAGE)
    media = await reader(models=models, decoder=decoder, language=language).read(CALLER, b"cat")
    assert media == MediaText("Một con mèo.", "image")
    assert models.resolved == ["seeing"]
    assert decoder.prepared == [IMAGE_PIXELS]
    [body] = engine.bodies
    picture, question = body["messages"][0]["content"]
    assert question == {"type": "text", "text": load_prompts().for_language(used).caption}
    assert picture["image_url"]["url"] == "data:image/png;base64," + base64.b64encode(b"pixels of cat").decode()


async def test_prompts_for_captions_differ_by_language() -> None:
    prompts = load_prompts()
    assert "Mô tả" in prompts.for_language("vi").caption
    assert "Describe" in prompts.for_language("en").caption


async def test_hub_whose_models_read_text_only_refuses_images_before_they_are_decoded() -> None:
    models, decoder = LocalModels([FakeChatEngine("text-only")]), KnowingDecoder(IMAGE)
    error = await refusal(reader(models=models, decoder=decoder))
    assert error.code == "unsupported_file"
    assert "No vision model is installed" in error.message
    assert "aihub models recommended" in error.message
    assert decoder.prepared == []
    assert models.resolved == []


async def test_hub_that_does_not_know_its_models_yet_is_waited_for() -> None:
    with pytest.raises(UnavailableError) as waited:
        await reader(IMAGE, models=LocalModels()).read(CALLER, b"cat")
    assert waited.value.retryable


async def test_vision_model_that_is_being_loaded_is_waited_for() -> None:
    engine = SeeingEngine()
    engine.error = ModelUnavailableError("The model is loading.")
    with pytest.raises(ModelUnavailableError):
        await reader(IMAGE, models=LocalModels([engine])).read(CALLER, b"cat")


async def test_vision_model_that_never_answers_is_given_up_and_tried_again_later(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipelines.transcribing_reader.CAPTION_TIMEOUT_S", 0.05)
    engine = SeeingEngine()
    monkeypatch.setattr(engine, "chat", lambda body: asyncio.sleep(60))
    with pytest.raises(EngineTimeoutError) as gave_up:
        await reader(IMAGE, models=LocalModels([engine])).read(CALLER, b"cat")
    assert gave_up.value.retryable


@pytest.mark.parametrize("caption", [None, "", " \n\0 ", " \ufeff", "\ufeff \ufeff\ufeff"])
async def test_empty_caption_is_refused(caption: str | None) -> None:
    error = await refusal(reader(IMAGE, models=LocalModels([SeeingEngine(caption=caption)])))
    assert error.code == "empty_file"


async def test_caption_is_as_stored_text_must_be() -> None:
    media = await reader(IMAGE, models=LocalModels([SeeingEngine(caption="\ufeffMe\u0300o  \r\n\n\n\nđen\0 ")])).read(
        CALLER, b"cat"
    )
    assert media.text == "Mèo\n\nđen" == clean(media.text)


@given(st.text(st.sampled_from("a \t\n\r\ufeff\u0301\0\x1f\u2028\u3000\ud800é"), max_size=12))
def test_every_caption_is_as_stored_text_must_be(caption: str) -> None:
    try:
        media = asyncio.run(reader(IMAGE, models=LocalModels([SeeingEngine(caption=caption)])).read(CALLER, b"cat"))
    except DocumentError as error:
        assert error.code == "empty_file"
    else:
        assert media.text
        assert clean(media.text) == media.text


async def test_caption_that_had_no_room_is_marked_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    engine = SeeingEngine(caption="Thực đơn: phở bò 45.000 đ, phở ", finish_reason="length")
    media = await reader(IMAGE, models=LocalModels([engine])).read(CALLER, b"menu")
    assert media.text == "Thực đơn: phở bò 45.000 đ, phở […]" == clean(media.text)
    assert "seeing was cut after 30 characters" in caplog.text


@pytest.mark.parametrize(("context_tokens", "room"), [(2048, 512), (4096, 1024), (32768, 2048)])
async def test_caption_has_room_for_a_page_and_leaves_the_image_its_own(context_tokens: int, room: int) -> None:
    engine = SeeingEngine()
    await reader(IMAGE, models=LocalModels([engine], context_tokens=context_tokens)).read(CALLER, b"page")
    assert [body["max_completion_tokens"] for body in engine.bodies] == [room]
