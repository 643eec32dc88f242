"""One suite for every `SpeechService`: the engine with small real models, and the fake."""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from aihub.core.errors import ModelUnavailableError, NotFoundError, OverloadedError
from aihub.core.principal import Principal
from aihub.media.decoder import SandboxedDecoder
from aihub.models.store.catalogue import load_catalogue
from aihub.models.store.installs import InstallStore
from aihub.models.store.speech_models import InstalledSpeechModels
from aihub.speech.engine import SpeechEngine, SpeechPlaces
from aihub.speech.fake import FakeSpeech
from aihub.speech.models import SpeechModels
from aihub.speech.service import (
    LiveOptions,
    LiveResult,
    RecognitionOptions,
    SpeechService,
    TranscriptionEnd,
    TranscriptionProgress,
    TranscriptionStart,
)
from aihub.speech.settings import SpeechSettings
from tests.speech_data import silence, speech_model, utterances, wav_of

SOMEBODY = Principal()
STREAMS = 2


@dataclass
class Case:
    """A service, and audio in which it hears words."""

    service: SpeechService
    model: str
    language: str
    samples: bytes

    @property
    def options(self) -> RecognitionOptions:
        """A request for the model."""
        return RecognitionOptions(model=self.model)

    @property
    def live(self) -> LiveOptions:
        """A live stream of the model."""
        return LiveOptions(recognition=self.options)


@asynccontextmanager
async def engine_of(folder: Path | None, home: Path, places: SpeechPlaces | None = None) -> AsyncIterator[SpeechEngine]:
    """An engine on the models in a folder."""
    models = SpeechModels(InstalledSpeechModels(InstallStore(home / "installs"), home / "models", folder, load_catalogue()))
    decoder = SandboxedDecoder()
    engine = SpeechEngine(models, decoder, SpeechSettings(), places or SpeechPlaces(parallel_parts=2, max_streams=STREAMS))
    try:
        yield engine
    finally:
        await engine.shut_down()
        await decoder.close()


@pytest.fixture(params=["engine", "fake"])
async def case(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Case]:
    if request.param == "fake":
        yield Case(FakeSpeech(max_streams=STREAMS), "vosk:en", "en", silence(6))
        return
    said = b"".join(utterance.samples + silence(1) for utterance in utterances("en")[:3])
    async with engine_of(speech_model("en").parent, tmp_path) as engine:
        yield Case(engine, "vosk:tiny-en", "en", said)


async def test_models_have_keys_and_languages(case: Case) -> None:
    found = {model.model_id: model.languages for model in await case.service.models()}
    assert found[case.model] == (case.language,)


async def test_transcript_has_words_in_order_within_the_audio(case: Case) -> None:
    transcript = await case.service.transcribe(SOMEBODY, wav_of(case.samples), case.options)
    words = [word for segment in transcript.segments for word in segment.words]
    assert (transcript.model_id, transcript.language) == (case.model, case.language)
    assert transcript.duration_s == pytest.approx(len(case.samples) / 32_000, abs=0.01)
    assert transcript.text == " ".join(word.text for word in words) != ""
    assert all(0 <= word.start_s < word.end_s <= transcript.duration_s + 0.1 for word in words)
    assert [word.start_s for word in words] == sorted(word.start_s for word in words)
    assert all(0 <= word.confidence <= 1 for word in words)


async def test_events_say_the_same_as_the_transcript(case: Case) -> None:
    transcript = await case.service.transcribe(SOMEBODY, wav_of(case.samples), case.options)
    events = [event async for event in case.service.stream_transcription(SOMEBODY, wav_of(case.samples), case.options)]
    progress = [event for event in events if isinstance(event, TranscriptionProgress)]
    assert isinstance(events[0], TranscriptionStart)
    assert isinstance(events[-1], TranscriptionEnd)
    assert events[0].duration_s == pytest.approx(transcript.duration_s)
    assert tuple(event.segment for event in progress if event.segment is not None) == transcript.segments
    assert [event.done_s for event in progress] == sorted(event.done_s for event in progress)


async def test_generator_that_is_closed_early_leaves_the_service_usable(case: Case) -> None:
    async with aclosing(case.service.stream_transcription(SOMEBODY, wav_of(case.samples), case.options)) as events:
        assert isinstance(await anext(events), TranscriptionStart)
    assert (await case.service.transcribe(SOMEBODY, wav_of(case.samples), case.options)).text


async def test_callers_at_once_hear_the_same(case: Case) -> None:
    one = await case.service.transcribe(SOMEBODY, wav_of(case.samples), case.options)
    many = await asyncio.gather(*(case.service.transcribe(SOMEBODY, wav_of(case.samples), case.options) for _ in range(6)))
    assert all(transcript == one for transcript in many)


async def test_unknown_model_is_not_found_and_the_message_names_those_that_are(case: Case) -> None:
    with pytest.raises(NotFoundError, match=case.model):
        await case.service.transcribe(SOMEBODY, wav_of(case.samples), RecognitionOptions(model="vosk:nobody"))
    with pytest.raises(NotFoundError, match=case.model):
        await case.service.open_stream(SOMEBODY, LiveOptions(recognition=RecognitionOptions(model="vosk:nobody")))


async def test_live_stream_hears_partials_and_finals(case: Case) -> None:
    stream = await case.service.open_stream(SOMEBODY, case.live)
    assert (stream.model_id, stream.language) == (case.model, case.language)
    finals, partials = [], []
    for start in range(0, len(case.samples), 8000):
        result = await case.service.feed(SOMEBODY, stream.stream_id, case.samples[start : start + 8000])
        finals.extend(result.finals)
        partials.extend([result.partial["partial"]] if result.partial else [])
    finals.extend((await case.service.finish(SOMEBODY, stream.stream_id)).finals)
    words = [word for final in finals for word in final.get("result", ())]
    assert any(partials)
    assert words
    assert " ".join(word["word"] for word in words) == " ".join(final["text"] for final in finals if final["text"])
    assert all({"word", "start", "end", "conf"} <= set(word) for word in words)


async def hear_live(case: Case, options: LiveOptions, samples: bytes) -> list[LiveResult]:
    stream = await case.service.open_stream(SOMEBODY, options)
    results = [LiveResult(model_id=stream.model_id, language=stream.language)]
    for start in range(0, len(samples), 8000):
        results.append(await case.service.feed(SOMEBODY, stream.stream_id, samples[start : start + 8000]))
    return [*results, await case.service.finish(SOMEBODY, stream.stream_id)]


async def test_live_stream_of_one_model_tells_it_with_every_result(case: Case) -> None:
    results = await hear_live(case, case.live, case.samples)
    assert {(result.model_id, result.language) for result in results} == {(case.model, case.language)}


async def test_live_stream_of_no_model_loses_nothing_of_the_time_before_its_language_is_known(case: Case) -> None:
    results = await hear_live(case, LiveOptions(), case.samples)
    told = [result.model_id for result in results]
    known_from = told.index(case.model)
    assert 1 < known_from < len(told) - 1
    assert told == [None] * known_from + [case.model] * (len(told) - known_from)
    assert all(result == LiveResult(partial={"partial": ""}) for result in results[1:known_from])
    assert results[known_from].language == case.language
    named = await hear_live(case, case.live, case.samples)
    assert [final for result in results for final in result.finals] == [final for result in named for final in result.finals]
    assert [result.partial for result in results[known_from + 1 :]] == [result.partial for result in named[known_from + 1 :]]


async def test_live_stream_that_ends_early_is_decided_at_its_end(case: Case) -> None:
    results = await hear_live(case, LiveOptions(), case.samples[:32_000])
    assert [result.model_id for result in results] == [None] * (len(results) - 1) + [case.model]
    named = await hear_live(case, case.live, case.samples[:32_000])
    assert results[-1].finals == named[-1].finals
    assert results[-1].finals[0]["text"]


async def test_file_that_comes_in_as_a_live_stream_is_heard(case: Case) -> None:
    stream = await case.service.open_stream(SOMEBODY, LiveOptions(recognition=case.options, encoding="container"))
    finals, file = [], wav_of(case.samples)
    for start in range(0, len(file), 10_000):
        finals.extend((await case.service.feed(SOMEBODY, stream.stream_id, file[start : start + 10_000])).finals)
    finals.extend((await case.service.finish(SOMEBODY, stream.stream_id)).finals)
    transcript = await case.service.transcribe(SOMEBODY, file, case.options)
    assert " ".join(final["text"] for final in finals if final["text"]) == transcript.text


async def test_alternatives_replace_the_one_result(case: Case) -> None:
    stream = await case.service.open_stream(SOMEBODY, LiveOptions(recognition=case.options, max_alternatives=2))
    finals = list((await case.service.feed(SOMEBODY, stream.stream_id, case.samples[:128_000])).finals)
    finals.extend((await case.service.finish(SOMEBODY, stream.stream_id)).finals)
    assert 1 <= len(finals[0]["alternatives"]) <= 2
    assert finals[0]["alternatives"][0]["text"]


async def test_stream_that_has_ended_is_not_found(case: Case) -> None:
    stream = await case.service.open_stream(SOMEBODY, case.live)
    await case.service.finish(SOMEBODY, stream.stream_id)
    with pytest.raises(NotFoundError):
        await case.service.feed(SOMEBODY, stream.stream_id, silence(0.1))
    with pytest.raises(NotFoundError):
        await case.service.finish(SOMEBODY, stream.stream_id)
    await case.service.close(SOMEBODY, stream.stream_id)


async def test_streams_beyond_the_places_are_refused_until_one_ends(case: Case) -> None:
    streams = [await case.service.open_stream(SOMEBODY, case.live) for _ in range(STREAMS)]
    with pytest.raises(OverloadedError) as refusal:
        await case.service.open_stream(SOMEBODY, case.live)
    assert refusal.value.retry_after_s
    await case.service.close(SOMEBODY, streams[0].stream_id)
    again = await case.service.open_stream(SOMEBODY, case.live)
    for stream in (streams[1], again):
        await case.service.close(SOMEBODY, stream.stream_id)


async def test_service_without_a_model_says_how_to_install_one(tmp_path: Path) -> None:
    fake = FakeSpeech()
    fake.models_here = ()
    async with engine_of(None, tmp_path) as engine:
        for service in (engine, fake):
            assert await service.models() == []
            with pytest.raises(ModelUnavailableError, match=re.escape("aihub models download vosk:vi")):
                await service.transcribe(SOMEBODY, wav_of(silence(1)), RecognitionOptions())
