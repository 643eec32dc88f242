"""What other tests rely on."""

import pytest

from aihub.core.errors import ModelUnavailableError, NotFoundError, OverloadedError
from aihub.core.principal import Principal
from aihub.speech.fake import FakeSpeech
from aihub.speech.service import LiveOptions, RecognitionOptions, TranscriptionEnd, TranscriptionProgress, TranscriptionStart
from tests.unit.speech.audio_files import wav

CALLER = Principal()
SCRIPT = ("xin chào", "cửa hàng mở cửa lúc tám giờ")


async def test_longer_audio_gives_more_of_the_script() -> None:
    speech = FakeSpeech(script=SCRIPT)
    short = await speech.transcribe(CALLER, wav(0.5), RecognitionOptions(model="vosk:vi"))
    whole = await speech.transcribe(CALLER, wav(60.0), RecognitionOptions(model="vosk:vi"))
    assert (short.text, short.duration_s, short.language) == ("xin chào", 0.5, "vi")
    assert [segment.text for segment in whole.segments] == list(SCRIPT)
    assert whole.segments[1].words[0].start_s == 1.0  # two words of 0.25 s and a pause of 0.5 s


async def test_files_and_live_streams_hear_the_same() -> None:
    speech = FakeSpeech()
    file = await speech.transcribe(CALLER, wav(7.0, 16_000), RecognitionOptions(model="vosk:vi"))
    stream = await speech.open_stream(CALLER, LiveOptions(RecognitionOptions(model="vosk:vi")))
    texts = []
    for _ in range(70):
        texts += [final["text"] for final in (await speech.feed(CALLER, stream.stream_id, bytes(3200))).finals]
    texts += [final["text"] for final in (await speech.finish(CALLER, stream.stream_id)).finals]
    assert [text for text in texts if text] == [segment.text for segment in file.segments]
    assert speech.streams == {}


async def test_events_of_a_file_come_in_order_and_closing_ends_the_work() -> None:
    speech = FakeSpeech(script=SCRIPT)
    events = [event async for event in speech.stream_transcription(CALLER, wav(9.0), RecognitionOptions())]
    assert [type(event) for event in events] == [
        TranscriptionStart, TranscriptionProgress, TranscriptionProgress, TranscriptionEnd,
    ]  # fmt: skip
    begun = speech.stream_transcription(CALLER, wav(9.0), RecognitionOptions())
    await anext(begun)
    assert speech.active == 1
    await begun.aclose()
    assert speech.active == 0


async def test_partial_results_grow_until_a_pause_ends_the_sentence() -> None:
    speech = FakeSpeech(script=SCRIPT)
    stream = await speech.open_stream(CALLER, LiveOptions(RecognitionOptions(model="vosk:vi"), partial_words=True))
    first = await speech.feed(CALLER, stream.stream_id, bytes(8000))
    second = await speech.feed(CALLER, stream.stream_id, bytes(24_000))
    assert first.partial is not None
    assert (first.finals, first.partial["partial"]) == ((), "xin")
    assert second.partial is None
    assert second.finals[0]["text"] == "xin chào"
    assert second.finals[0]["result"][1] == {"conf": 0.9, "end": 0.5, "start": 0.25, "word": "chào"}


async def test_models_are_found_by_name_and_by_language() -> None:
    speech = FakeSpeech()
    assert (await speech.transcribe(CALLER, wav(1.0), RecognitionOptions(language="vi"))).model_id == "vosk:vi"
    with pytest.raises(NotFoundError, match=r"vosk:en, vosk:vi"):
        await speech.transcribe(CALLER, wav(1.0), RecognitionOptions(model="whisper-1"))
    with pytest.raises(ModelUnavailableError, match="vosk:de"):
        await speech.transcribe(CALLER, wav(1.0), RecognitionOptions(language="de"))
    speech.models_here = ()
    with pytest.raises(ModelUnavailableError, match="aihub models download"):
        await speech.transcribe(CALLER, wav(1.0), RecognitionOptions())


async def test_places_for_live_streams_are_limited_and_come_back() -> None:
    speech = FakeSpeech(max_streams=1)
    stream = await speech.open_stream(CALLER, LiveOptions())
    with pytest.raises(OverloadedError):
        await speech.open_stream(CALLER, LiveOptions())
    await speech.close(CALLER, stream.stream_id)
    await speech.open_stream(CALLER, LiveOptions())
    with pytest.raises(NotFoundError):
        await speech.feed(CALLER, stream.stream_id, b"")
