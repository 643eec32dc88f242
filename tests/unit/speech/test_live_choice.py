"""Live streams whose language is not known, on the small real models: what is decided when, and that every candidate is freed."""

import asyncio
import signal
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from aihub.core.errors import HubError, InvalidRequestError, NotFoundError, OverloadedError, UnavailableError
from aihub.core.principal import Principal
from aihub.models.store.catalogue import load_catalogue
from aihub.models.store.installs import InstallStore
from aihub.models.store.speech_models import InstalledSpeechModels
from aihub.speech.live import LiveLimits, LiveStreams
from aihub.speech.live_choice import LONGEST_LIVE_TRIAL_S, ChoosingRecogniser
from aihub.speech.models import SpeechModel, SpeechModels
from aihub.speech.recognition.options import BLOCK_S, RecogniserOptions
from aihub.speech.recognition.pool import RecogniserPool
from aihub.speech.service import LiveOptions, LiveResult, RecognitionOptions
from tests.process_tree import kill_children
from tests.speech_data import Utterance, WaveDecoder, silence, speech_model, utterances, wav_of

SOMEBODY = Principal()
MakeStreams = Callable[..., LiveStreams]


@pytest.fixture
def models(tmp_path: Path) -> list[SpeechModel]:
    folder = speech_model("en").parent
    store = InstalledSpeechModels(InstallStore(tmp_path / "installs"), tmp_path / "models", folder, load_catalogue())
    return SpeechModels(store).find()


@pytest.fixture
async def make_streams(pool: RecogniserPool) -> AsyncIterator[MakeStreams]:
    made: list[LiveStreams] = []

    def make(*, max_streams: int = 8, idle_s: float = 60.0) -> LiveStreams:
        made.append(LiveStreams(pool, WaveDecoder(), LiveLimits(max_streams, idle_s)))
        return made[-1]

    yield make
    for streams in made:
        await streams.close_all()


def clean(language: str) -> list[Utterance]:
    return [utterance for utterance in utterances(language) if not utterance.is_noisy]


def one_of(models: list[SpeechModel], language: str) -> list[SpeechModel]:
    return [model for model in models if model.language == language]


def noise(seconds: float) -> bytes:
    return np.random.default_rng(0).normal(0, 1000, int(seconds * 16_000)).astype("<i2").tobytes()


async def hear(
    streams: LiveStreams, models: list[SpeechModel], data: bytes, options: LiveOptions | None = None, piece_bytes: int = 4000
) -> list[LiveResult]:
    stream = await streams.open(SOMEBODY, models, options or LiveOptions())
    pieces = [data[start : start + piece_bytes] for start in range(0, len(data), piece_bytes)]
    results = [await streams.feed(SOMEBODY, stream.stream_id, piece) for piece in pieces]
    return [*results, await streams.finish(SOMEBODY, stream.stream_id)]


def text_of(results: list[LiveResult]) -> str:
    return " ".join(final["text"] for result in results for final in result.finals if final["text"])


def starts_of(results: list[LiveResult]) -> list[float]:
    return [word["start"] for result in results for final in result.finals for word in final.get("result", ())]


def decided_at(results: list[LiveResult]) -> int:
    return next(index for index, result in enumerate(results) if result.model_id is not None)


@pytest.mark.parametrize("language", ["en", "vi"])
async def test_every_utterance_is_heard_in_its_language(
    make_streams: MakeStreams, pool: RecogniserPool, models: list[SpeechModel], language: str
) -> None:
    streams = make_streams()
    for said in clean(language):
        results = await hear(streams, models, said.samples)
        named = await hear(streams, one_of(models, language), said.samples)
        assert (results[-1].language, text_of(results)) == (language, text_of(named))
    assert pool.open_recognisers == 0


@pytest.mark.parametrize("language", ["en", "vi"])
async def test_telephone_speech_is_heard_in_its_language(
    make_streams: MakeStreams, models: list[SpeechModel], language: str
) -> None:
    samples = np.frombuffer(b"".join(said.samples for said in clean(language)[:4]), "<i2").astype(np.float64)
    half = samples[: len(samples) // 2 * 2].reshape(-1, 2).mean(axis=1).astype("<i2").tobytes()
    options = LiveOptions(sample_rate=8000)
    results = await hear(make_streams(), models, half, options)
    named = await hear(make_streams(), one_of(models, language), half, options)
    assert (results[-1].language, text_of(results)) == (language, text_of(named))
    assert 3 <= decided_at(results) * BLOCK_S <= 6  # pieces of 4000 bytes last 0.25 s, and utterances have silence around them


@pytest.mark.parametrize("piece_bytes", [642, 32_000, 2**20])
async def test_pieces_of_any_length_bring_all_words(
    make_streams: MakeStreams, models: list[SpeechModel], piece_bytes: int
) -> None:
    said = b"".join(utterance.samples + silence(1.2) for utterance in clean("vi")[:3])
    results = await hear(make_streams(), models, said, piece_bytes=piece_bytes)
    assert text_of(results) == " ".join(utterance.transcript for utterance in clean("vi")[:3])


async def test_file_is_heard_in_its_language_while_it_comes(make_streams: MakeStreams, models: list[SpeechModel]) -> None:
    said = b"".join(utterance.samples + silence(1.2) for utterance in clean("vi")[:3])
    results = await hear(make_streams(), models, wav_of(said), LiveOptions(encoding="container"))
    assert (results[-1].language, text_of(results)) == ("vi", " ".join(utterance.transcript for utterance in clean("vi")[:3]))
    assert decided_at(results) < len(results) - 1


@pytest.mark.parametrize(
    "before", [silence(25), silence(8.5), noise(8) + silence(2)], ids=["silence", "shorter silence", "noise"]
)
async def test_time_without_words_decides_nothing_and_counts(
    make_streams: MakeStreams, models: list[SpeechModel], before: bytes
) -> None:
    said = b"".join(utterance.samples for utterance in clean("vi")[:2])
    results = await hear(make_streams(), models, before + said)
    named = await hear(make_streams(), one_of(models, "vi"), said)
    assert decided_at(results) >= len(before) // 4000
    assert (results[-1].language, text_of(results)) == ("vi", text_of(named))
    assert starts_of(results) == pytest.approx([start + len(before) / 32_000 for start in starts_of(named)], abs=0.1)


@pytest.mark.parametrize(
    ("audio", "most_s"),
    [(silence(30), LONGEST_LIVE_TRIAL_S / 2), ((noise(0.02) + silence(0.98)) * 30, LONGEST_LIVE_TRIAL_S)],
    ids=["silence", "clicks"],
)
async def test_no_more_audio_is_kept_than_the_trial_needs(
    pool: RecogniserPool, models: list[SpeechModel], audio: bytes, most_s: float
) -> None:
    choice = ChoosingRecogniser(pool, models, RecogniserOptions(partials=True))
    await choice.open()
    for start in range(0, len(audio), 8000):
        await choice.hear(audio[start : start + 8000])
        assert choice.kept_s <= most_s + BLOCK_S
    await choice.hear(b"".join(utterance.samples for utterance in clean("en")[:6]))
    assert choice.model is not None
    assert choice.kept_s == 0
    choice.close()
    assert pool.open_recognisers == 0


async def test_short_command_is_answered_while_its_speaker_waits(make_streams: MakeStreams, models: list[SpeechModel]) -> None:
    said = min(clean("vi"), key=lambda utterance: utterance.duration_s)
    assert said.duration_s < 3
    results = await hear(make_streams(), models, said.samples + silence(4))
    assert decided_at(results) * 4000 / 32_000 < said.duration_s + 2.5
    assert text_of(results[:-1]) == said.transcript


@pytest.mark.parametrize(
    "options", [LiveOptions(words=False), LiveOptions(max_alternatives=2), LiveOptions(partial_words=True)], ids=str
)
async def test_results_are_as_the_client_wants_them(
    make_streams: MakeStreams, models: list[SpeechModel], options: LiveOptions
) -> None:
    said = b"".join(utterance.samples + silence(1) for utterance in clean("en")[:3])
    results = await hear(make_streams(), models, said, options, 8000)
    named = await hear(make_streams(), one_of(models, "en"), said, options, 8000)
    assert [final for result in results for final in result.finals] == [final for result in named for final in result.finals]
    known_from = decided_at(results) + 1
    assert [result.partial for result in results[known_from:]] == [result.partial for result in named[known_from:]]


async def test_stream_without_audio_ends_with_a_model_and_no_words(make_streams: MakeStreams, models: list[SpeechModel]) -> None:
    (result,) = await hear(make_streams(), models, b"")
    assert (result.model_id, text_of([result])) == (models[0].info.model_id, "")


async def test_streams_at_once_are_heard_each_in_its_language(
    make_streams: MakeStreams, pool: RecogniserPool, models: list[SpeechModel]
) -> None:
    streams = make_streams()
    said = [item for pair in zip(clean("en")[:4], clean("vi")[:4], strict=True) for item in pair]
    found = await asyncio.gather(*(hear(streams, models, item.samples) for item in said))
    assert [results[-1].language for results in found] == ["en", "vi"] * 4
    assert pool.open_recognisers == 0


async def test_phrases_that_one_model_knows_decide_at_once(
    make_streams: MakeStreams, pool: RecogniserPool, models: list[SpeechModel]
) -> None:
    phrases = tuple(clean("vi")[0].transcript.split())
    streams = make_streams()
    stream = await streams.open(SOMEBODY, models, LiveOptions(recognition=RecognitionOptions(phrases=phrases)))
    assert (stream.language, pool.open_recognisers) == ("vi", 1)
    await streams.close(SOMEBODY, stream.stream_id)
    with pytest.raises(InvalidRequestError, match="nobodyknowsthis"):
        await streams.open(SOMEBODY, models, LiveOptions(recognition=RecognitionOptions(phrases=("nobodyknowsthis",))))
    assert pool.open_recognisers == 0


async def test_rate_that_a_candidate_does_not_hear_is_refused(make_streams: MakeStreams, models: list[SpeechModel]) -> None:
    demanding = [models[0], replace(models[1], lowest_sample_rate=16_000)]
    with pytest.raises(InvalidRequestError, match="name another model or a language"):
        await make_streams().open(SOMEBODY, demanding, LiveOptions(sample_rate=8000))


async def test_stream_takes_one_place_and_gives_it_back(
    make_streams: MakeStreams, pool: RecogniserPool, models: list[SpeechModel]
) -> None:
    streams = make_streams(max_streams=2)
    opened = [await streams.open(SOMEBODY, models, LiveOptions()) for _ in range(2)]
    assert pool.open_recognisers == 4
    with pytest.raises(OverloadedError):
        await streams.open(SOMEBODY, models, LiveOptions())
    for stream in opened:
        await streams.close(SOMEBODY, stream.stream_id)
    assert pool.open_recognisers == 0
    await streams.open(SOMEBODY, models, LiveOptions())


@pytest.mark.parametrize("language", ["en", "vi"])
async def test_death_of_a_candidate_ends_the_stream_and_frees_the_others(
    make_streams: MakeStreams, pool: RecogniserPool, deaths: list[int | None], models: list[SpeechModel], language: str
) -> None:
    streams, said = make_streams(), clean("vi")[0]
    stream = await streams.open(SOMEBODY, models, LiveOptions())
    await streams.feed(SOMEBODY, stream.stream_id, said.samples[:8000])
    # With the one that is forked ahead, where that has come already.
    killed = kill_children(pool.loaded()[one_of(models, language)[0].folder], signal.SIGABRT)
    with pytest.raises(UnavailableError) as error:
        await streams.feed(SOMEBODY, stream.stream_id, said.samples[8000:])
    assert error.value.code == "recogniser_died"
    assert pool.open_recognisers == 0
    with pytest.raises(NotFoundError):
        await streams.finish(SOMEBODY, stream.stream_id)
    async with asyncio.timeout(5):
        while len(deaths) < killed:  # noqa: ASYNC110  # the pool tells of them later
            await asyncio.sleep(0.01)
    assert text_of(await hear(streams, models, said.samples)) == said.transcript


@pytest.mark.parametrize("steps", [0, 1, 2, 5, 10, 20, 40, 80])
@pytest.mark.parametrize("is_cancelled", [True, False], ids=["cancelled", "closed"])
async def test_end_at_any_moment_frees_every_candidate(
    make_streams: MakeStreams, pool: RecogniserPool, models: list[SpeechModel], steps: int, is_cancelled: bool
) -> None:
    streams = make_streams(max_streams=1)
    stream = await streams.open(SOMEBODY, models, LiveOptions())
    said = b"".join(utterance.samples for utterance in clean("vi")[:4])
    feeding = asyncio.create_task(streams.feed(SOMEBODY, stream.stream_id, said))
    for _ in range(steps):
        await asyncio.sleep(0.002)
    if is_cancelled:
        feeding.cancel()
    else:
        await streams.close(SOMEBODY, stream.stream_id)
    (outcome,) = await asyncio.gather(feeding, return_exceptions=True)
    assert isinstance(outcome, LiveResult | HubError | asyncio.CancelledError)
    if steps == 0 or isinstance(outcome, LiveResult):  # the end came before the piece was begun, or after it was heard
        await streams.close(SOMEBODY, stream.stream_id)
    assert pool.open_recognisers == 0
    await streams.open(SOMEBODY, models, LiveOptions())


async def test_caller_who_leaves_while_models_are_loaded_leaves_nothing_open(
    make_streams: MakeStreams, pool: RecogniserPool, models: list[SpeechModel]
) -> None:
    streams = make_streams(max_streams=1)
    opening = asyncio.create_task(streams.open(SOMEBODY, models, LiveOptions()))
    await asyncio.sleep(0.02)
    opening.cancel()
    await asyncio.gather(opening, return_exceptions=True)
    stream = await streams.open(SOMEBODY, models, LiveOptions())
    assert pool.open_recognisers == 2
    await streams.close(SOMEBODY, stream.stream_id)
    assert pool.open_recognisers == 0


async def test_idle_stream_frees_every_candidate(
    make_streams: MakeStreams, pool: RecogniserPool, models: list[SpeechModel]
) -> None:
    streams = make_streams(idle_s=0.2)
    stream = await streams.open(SOMEBODY, models, LiveOptions())
    await streams.feed(SOMEBODY, stream.stream_id, silence(0.5))
    await asyncio.sleep(0.5)
    assert pool.open_recognisers == 0
    with pytest.raises(NotFoundError):
        await streams.feed(SOMEBODY, stream.stream_id, silence(0.1))
