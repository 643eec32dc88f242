"""The engine with the small real models: languages, long files, phrases, and limits."""

import asyncio
import signal
import unicodedata
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from pathlib import Path

import pytest

from aihub.core.errors import InvalidRequestError, OverloadedError, UnavailableError
from aihub.core.principal import Principal
from aihub.models.store.catalogue import load_catalogue
from aihub.models.store.installs import InstallStore
from aihub.models.store.speech_models import InstalledSpeechModels
from aihub.speech.engine import SpeechEngine, SpeechPlaces
from aihub.speech.metrics import SpeechMetrics
from aihub.speech.models import SpeechModels
from aihub.speech.service import LiveOptions, RecognitionOptions, TranscriptionProgress
from aihub.speech.settings import SpeechSettings
from tests.process_tree import kill_children
from tests.speech_data import Utterance, WaveDecoder, silence, speech_model, utterances, wav_of

SOMEBODY = Principal()
ENGLISH = RecognitionOptions(model="vosk:tiny-en")
LONG_S = 400.0
MakeEngine = Callable[..., SpeechEngine]


@pytest.fixture
async def make_engine(tmp_path: Path) -> AsyncIterator[MakeEngine]:
    engines: list[SpeechEngine] = []

    def make(
        *, parallel_parts: int = 2, max_streams: int = 4, metrics: SpeechMetrics | None = None, **settings: object
    ) -> SpeechEngine:
        folder = speech_model("en").parent
        store = InstalledSpeechModels(InstallStore(tmp_path / "installs"), tmp_path / "models", folder, load_catalogue())
        places = SpeechPlaces(parallel_parts, max_streams)
        engine = SpeechEngine(SpeechModels(store), WaveDecoder(), SpeechSettings.model_validate(settings), places, metrics)
        engines.append(engine)
        return engine

    yield make
    for engine in engines:
        await engine.shut_down()


@pytest.fixture
def engine(make_engine: MakeEngine) -> SpeechEngine:
    return make_engine()


def clean(language: str) -> list[Utterance]:
    return [utterance for utterance in utterances(language) if not utterance.is_noisy]


def long_audio(gap_s: float, *, with_noise: bool = False) -> tuple[bytes, str]:
    """Return utterances again and again for `LONG_S` seconds, and what is said in them."""
    samples, said = bytearray(), []
    several = utterances("en") if with_noise else clean("en")
    while len(samples) < LONG_S * 32_000:
        utterance = several[len(said) % len(several)]
        samples += utterance.samples + silence(gap_s)
        said.append(utterance.transcript)
    return bytes(samples), " ".join(said)


@pytest.mark.parametrize("language", ["en", "vi"])
async def test_auto_finds_the_language_of_every_utterance(engine: SpeechEngine, language: str) -> None:
    found = [await engine.transcribe(SOMEBODY, wav_of(item.samples), RecognitionOptions()) for item in clean(language)]
    assert [transcript.language for transcript in found] == [language] * len(found)
    words = sum(len(item.transcript.split()) for item in clean(language))
    right = sum(item.transcript == transcript.text for item, transcript in zip(clean(language), found, strict=True))
    assert right >= len(found) - 1, f"{right} of {len(found)} utterances with {words} words"


async def test_auto_goes_on_with_the_whole_of_a_longer_audio(engine: SpeechEngine) -> None:
    several = clean("vi")
    audio = silence(3) + b"".join(utterance.samples + silence(1) for utterance in several * 2)
    transcript = await engine.transcribe(SOMEBODY, wav_of(audio), RecognitionOptions())
    assert transcript.language == "vi"
    assert transcript.text == " ".join(utterance.transcript for utterance in several * 2)
    named = await engine.transcribe(SOMEBODY, wav_of(audio), RecognitionOptions(model="vosk:tiny-vi"))
    assert named.segments == transcript.segments


async def test_language_narrows_auto(engine: SpeechEngine) -> None:
    transcript = await engine.transcribe(SOMEBODY, wav_of(clean("en")[0].samples), RecognitionOptions(language="vi"))
    assert transcript.language == "vi"


async def test_silence_has_no_words(engine: SpeechEngine) -> None:
    transcript = await engine.transcribe(SOMEBODY, wav_of(silence(20)), RecognitionOptions())
    assert (transcript.text, transcript.duration_s) == ("", 20.0)


@pytest.mark.parametrize("with_noise", [False, True])
async def test_long_file_in_parts_has_the_words_and_times_of_the_whole(make_engine: MakeEngine, with_noise: bool) -> None:
    samples, said = long_audio(0.7, with_noise=with_noise)
    engine, whole_engine = make_engine(), make_engine(whole_audio_s=10_000)
    async with aclosing(engine.stream_transcription(SOMEBODY, wav_of(samples), ENGLISH)) as stream:
        progress = [event async for event in stream if isinstance(event, TranscriptionProgress)]
    words = [word for event in progress if event.segment is not None for word in event.segment.words]
    whole = await whole_engine.transcribe(SOMEBODY, wav_of(samples), ENGLISH)
    expected = [word for segment in whole.segments for word in segment.words]
    assert [word.text for word in words] == [word.text for word in expected]
    assert with_noise or [word.text for word in words] == said.split()
    assert max(abs(word.start_s - other.start_s) for word, other in zip(words, expected, strict=True)) < 0.1
    assert [event.done_s for event in progress] == sorted(event.done_s for event in progress)
    assert progress[-1].done_s == pytest.approx(len(samples) / 32_000, abs=0.01)


async def test_long_speech_without_pauses_loses_no_words(make_engine: MakeEngine) -> None:
    samples, said = long_audio(0.0)
    transcript = await make_engine().transcribe(SOMEBODY, wav_of(samples), ENGLISH)
    assert transcript.text == said


async def test_caller_who_leaves_a_long_file_ends_its_work(engine: SpeechEngine) -> None:
    samples, _ = long_audio(1.0)
    stream = engine.stream_transcription(SOMEBODY, wav_of(samples), ENGLISH)
    await anext(stream)
    await anext(stream)
    await stream.aclose()
    assert engine.pool.open_recognisers == 0
    assert (await engine.transcribe(SOMEBODY, wav_of(clean("en")[0].samples), ENGLISH)).text == clean("en")[0].transcript


async def test_cancelled_callers_give_their_places_back(make_engine: MakeEngine) -> None:
    engine = make_engine(parallel_parts=1, max_waiting_files=3)
    samples, _ = long_audio(1.0)
    for _ in range(5):
        tasks = [asyncio.create_task(engine.transcribe(SOMEBODY, wav_of(samples), ENGLISH)) for _ in range(3)]
        await asyncio.sleep(0.1)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    assert (await engine.transcribe(SOMEBODY, wav_of(clean("en")[0].samples), ENGLISH)).text


async def test_files_beyond_the_places_are_refused_at_once(make_engine: MakeEngine) -> None:
    engine = make_engine(parallel_parts=1, max_waiting_files=2)
    samples, _ = long_audio(1.0)
    outcomes = await asyncio.gather(
        *(engine.transcribe(SOMEBODY, wav_of(samples), ENGLISH) for _ in range(5)), return_exceptions=True
    )
    refused = [outcome for outcome in outcomes if isinstance(outcome, OverloadedError)]
    assert len(refused) == 3
    assert all(refusal.retry_after_s for refusal in refused)


async def test_short_file_is_not_held_up_by_as_many_long_ones_as_are_let_in(make_engine: MakeEngine) -> None:
    engine = make_engine(parallel_parts=1, max_waiting_files=6)
    short = clean("en")[0]
    await engine.transcribe(SOMEBODY, wav_of(short.samples), ENGLISH)  # loads the model
    samples, _ = long_audio(1.0)
    long = [asyncio.create_task(engine.transcribe(SOMEBODY, wav_of(samples), ENGLISH)) for _ in range(5)]
    await asyncio.sleep(0.5)
    async with asyncio.timeout(20.0):
        assert (await engine.transcribe(SOMEBODY, wav_of(short.samples), ENGLISH)).text == short.transcript
    assert not any(task.done() for task in long)
    for task in long:
        task.cancel()
    await asyncio.gather(*long, return_exceptions=True)


async def test_abort_in_the_middle_of_a_file_costs_that_file(make_engine: MakeEngine) -> None:
    metrics = SpeechMetrics()
    engine = make_engine(metrics=metrics)
    samples, said = long_audio(1.0)
    doomed = engine.stream_transcription(SOMEBODY, wav_of(samples), ENGLISH)
    await anext(doomed)
    await anext(doomed)
    (launcher,) = engine.pool.loaded().values()
    kill_children(launcher, signal.SIGABRT)
    with pytest.raises(UnavailableError) as error:
        async for _ in doomed:
            pass
    assert error.value.code == "recogniser_died"
    assert metrics.registry.get_sample_value("aihub_speech_recogniser_deaths_total", {"exit_code": "-6"})
    assert (await engine.transcribe(SOMEBODY, wav_of(samples), ENGLISH)).text == said


async def test_damaged_file_is_refused_and_the_next_one_works(engine: SpeechEngine) -> None:
    with pytest.raises(InvalidRequestError):
        await engine.transcribe(SOMEBODY, b"no audio", ENGLISH)
    assert (await engine.transcribe(SOMEBODY, wav_of(clean("en")[0].samples), ENGLISH)).text


async def test_phrases_are_spelled_as_the_model_has_them(engine: SpeechEngine) -> None:
    utterance = clean("vi")[0]
    phrases = tuple(word.upper() for word in utterance.transcript.split())
    transcript = await engine.transcribe(SOMEBODY, wav_of(utterance.samples), RecognitionOptions(phrases=phrases))
    assert transcript.language == "vi"  # the English model does not know them
    assert set(transcript.text.split()) <= {*utterance.transcript.split(), "[unk]"}


async def test_phrases_of_decomposed_letters_are_heard_in_files_and_live(engine: SpeechEngine) -> None:
    utterance = clean("vi")[0]
    written = tuple(unicodedata.normalize("NFD", word) for word in utterance.transcript.split())
    assert written != tuple(utterance.transcript.split())
    options = RecognitionOptions("vosk:tiny-vi", phrases=written)
    assert (await engine.transcribe(SOMEBODY, wav_of(utterance.samples), options)).text == utterance.transcript
    stream = await engine.open_stream(SOMEBODY, LiveOptions(options))
    await engine.feed(SOMEBODY, stream.stream_id, utterance.samples[: 2**19])
    heard = (await engine.finish(SOMEBODY, stream.stream_id)).finals
    assert heard[-1]["text"]
    assert "[unk]" not in heard[-1]["text"]


@pytest.mark.parametrize("phrases", [("nobodyknowsthis",), (" ",), ("one",) * 1001, ("a" * 201,)])
async def test_phrases_that_no_model_can_hear_are_refused(engine: SpeechEngine, phrases: tuple[str, ...]) -> None:
    for options in (RecognitionOptions(phrases=phrases), RecognitionOptions(model="vosk:tiny-en", phrases=phrases)):
        with pytest.raises(InvalidRequestError) as refusal:
            await engine.transcribe(SOMEBODY, wav_of(silence(1)), options)
        assert refusal.value.param == "phrases"


async def test_live_stream_without_a_model_is_decided_by_language_operator_or_hearing(make_engine: MakeEngine) -> None:
    open_choice = await make_engine().open_stream(SOMEBODY, LiveOptions())
    assert (open_choice.model_id, open_choice.language) == (None, None)
    chosen = make_engine(live_model="vosk:tiny-vi")
    assert (await chosen.open_stream(SOMEBODY, LiveOptions())).model_id == "vosk:tiny-vi"
    of_language = await make_engine().open_stream(SOMEBODY, LiveOptions(recognition=RecognitionOptions(language="en")))
    assert of_language.model_id == "vosk:tiny-en"


async def test_audio_of_a_stream_that_ends_undecided_is_counted(make_engine: MakeEngine) -> None:
    metrics = SpeechMetrics()
    engine = make_engine(metrics=metrics)
    stream = await engine.open_stream(SOMEBODY, LiveOptions())
    await engine.feed(SOMEBODY, stream.stream_id, silence(1))
    await engine.close(SOMEBODY, stream.stream_id)
    assert metrics.registry.get_sample_value("aihub_speech_audio_seconds_total", {"model": "auto", "kind": "live"}) == 1


async def test_metrics_count_audio_and_streams(make_engine: MakeEngine) -> None:
    metrics = SpeechMetrics()
    engine = make_engine(metrics=metrics)
    value = metrics.registry.get_sample_value
    await engine.transcribe(SOMEBODY, wav_of(silence(2)), ENGLISH)
    stream = await engine.open_stream(SOMEBODY, LiveOptions(recognition=ENGLISH))
    assert value("aihub_speech_open_streams") == 1
    await engine.feed(SOMEBODY, stream.stream_id, silence(1))
    await engine.finish(SOMEBODY, stream.stream_id)
    assert value("aihub_speech_open_streams") == 0
    assert value("aihub_speech_audio_seconds_total", {"model": "vosk:tiny-en", "kind": "file"}) == 2
    assert value("aihub_speech_audio_seconds_total", {"model": "vosk:tiny-en", "kind": "live"}) == 1
    assert value("aihub_speech_real_time_factor_count", {"model": "vosk:tiny-en"}) == 1
    assert value("aihub_speech_loaded_models") == 1
