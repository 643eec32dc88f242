"""Live streams on the small real models: order, tenants, idle ends, files that come in, and what goes wrong."""

import asyncio
import signal
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from pathlib import Path

import pytest

from aihub.core.errors import InvalidRequestError, NotFoundError, UnavailableError
from aihub.core.principal import Principal
from aihub.models.store.catalogue import load_catalogue
from aihub.models.store.installs import InstallStore
from aihub.models.store.speech_models import InstalledSpeechModels
from aihub.speech.live import LiveLimits, LiveStreams
from aihub.speech.models import SpeechModel, SpeechModels
from aihub.speech.recognition.pool import RecogniserPool
from aihub.speech.service import LiveOptions, LiveResult
from tests.process_tree import kill_children
from tests.speech_data import Utterance, WaveDecoder, silence, speech_model, utterances, wav_of

SOMEBODY, OTHER = Principal(), Principal(tenant_id="other")
MakeStreams = Callable[..., LiveStreams]


@pytest.fixture
def model(tmp_path: Path) -> SpeechModel:
    folder = speech_model("en")
    store = InstalledSpeechModels(InstallStore(tmp_path / "installs"), tmp_path / "models", folder, load_catalogue())
    return SpeechModels(store).find()[0]


@pytest.fixture
async def pool() -> AsyncIterator[RecogniserPool]:
    opened = RecogniserPool()
    yield opened
    await opened.close()


@pytest.fixture
async def make_streams(pool: RecogniserPool) -> AsyncIterator[MakeStreams]:
    made: list[LiveStreams] = []

    def make(*, max_streams: int = 8, idle_s: float = 60.0, max_audio_s: float = 100.0) -> LiveStreams:
        made.append(LiveStreams(pool, WaveDecoder(), LiveLimits(max_streams, idle_s, max_audio_s)))
        return made[-1]

    yield make
    for streams in made:
        await streams.close_all()


@pytest.fixture
def said() -> Utterance:
    return next(utterance for utterance in utterances("en") if not utterance.is_noisy)


async def feed_all(streams: LiveStreams, stream_id: str, data: bytes, piece_bytes: int = 4000) -> list[LiveResult]:
    results = [
        await streams.feed(SOMEBODY, stream_id, data[start : start + piece_bytes]) for start in range(0, len(data), piece_bytes)
    ]
    return [*results, await streams.finish(SOMEBODY, stream_id)]


def text_of(results: list[LiveResult]) -> str:
    return " ".join(final["text"] for result in results for final in result.finals if final["text"])


async def test_utterances_end_while_the_stream_goes_on(make_streams: MakeStreams, model: SpeechModel) -> None:
    several = [utterance for utterance in utterances("en") if not utterance.is_noisy]
    streams = make_streams()
    stream = await streams.open(SOMEBODY, [model], LiveOptions())
    results = await feed_all(streams, stream.stream_id, b"".join(item.samples + silence(1.5) for item in several))
    assert text_of(results) == " ".join(item.transcript for item in several)
    assert sum(bool(final["text"]) for result in results[:-1] for final in result.finals) == len(several)


@pytest.mark.parametrize("piece_bytes", [1, 333, 4001])
async def test_pieces_may_end_in_the_middle_of_a_sample(
    make_streams: MakeStreams, model: SpeechModel, said: Utterance, piece_bytes: int
) -> None:
    streams = make_streams()
    stream = await streams.open(SOMEBODY, [model], LiveOptions())
    head = 64 if piece_bytes == 1 else 0
    results = [await streams.feed(SOMEBODY, stream.stream_id, said.samples[at : at + 1]) for at in range(head)]
    results += await feed_all(streams, stream.stream_id, said.samples[head:], max(piece_bytes, 333))
    assert text_of(results) == said.transcript


@pytest.mark.parametrize("sample_rate", [8000, 16_000, 44_100, 48_000])
async def test_every_rate_in_range_is_heard(
    make_streams: MakeStreams, model: SpeechModel, said: Utterance, sample_rate: int
) -> None:
    import numpy as np

    samples = np.frombuffer(said.samples, dtype="<i2").astype(np.float64)
    times = np.arange(int(len(samples) * sample_rate / 16_000)) * 16_000 / sample_rate
    resampled = np.interp(times, np.arange(len(samples)), samples).astype("<i2").tobytes()
    streams = make_streams()
    stream = await streams.open(SOMEBODY, [model], LiveOptions(sample_rate=sample_rate))
    assert len(text_of(await feed_all(streams, stream.stream_id, resampled)).split()) == len(said.transcript.split())


async def test_file_is_decoded_while_it_comes(make_streams: MakeStreams, model: SpeechModel, said: Utterance) -> None:
    streams = make_streams()
    stream = await streams.open(SOMEBODY, [model], LiveOptions(encoding="container"))
    results = await feed_all(streams, stream.stream_id, wav_of(said.samples + silence(1.5) + said.samples))
    assert text_of(results) == f"{said.transcript} {said.transcript}"
    assert any(result.partial for result in results)


async def test_pieces_fed_at_once_are_heard_in_order(make_streams: MakeStreams, model: SpeechModel, said: Utterance) -> None:
    streams = make_streams()
    stream = await streams.open(SOMEBODY, [model], LiveOptions())
    pieces = [said.samples[start : start + 4000] for start in range(0, len(said.samples), 4000)]
    results = await asyncio.gather(*(streams.feed(SOMEBODY, stream.stream_id, piece) for piece in pieces))
    assert text_of([*results, await streams.finish(SOMEBODY, stream.stream_id)]) == said.transcript


async def test_stream_belongs_to_its_tenant(make_streams: MakeStreams, model: SpeechModel) -> None:
    streams = make_streams()
    stream = await streams.open(SOMEBODY, [model], LiveOptions())
    for call in (streams.feed(OTHER, stream.stream_id, silence(1)), streams.finish(OTHER, stream.stream_id)):
        with pytest.raises(NotFoundError):
            await call
    await streams.close(OTHER, stream.stream_id)
    await streams.feed(SOMEBODY, stream.stream_id, silence(0.1))


async def test_idle_stream_is_closed(make_streams: MakeStreams, pool: RecogniserPool, model: SpeechModel) -> None:
    streams = make_streams(max_streams=1, idle_s=0.3)
    stream = await streams.open(SOMEBODY, [model], LiveOptions())
    for _ in range(4):
        await asyncio.sleep(0.15)
        await streams.feed(SOMEBODY, stream.stream_id, silence(0.1))
    await asyncio.sleep(0.5)
    with pytest.raises(NotFoundError):
        await streams.feed(SOMEBODY, stream.stream_id, silence(0.1))
    assert pool.open_recognisers == 0
    await streams.open(SOMEBODY, [model], LiveOptions())


async def test_death_of_the_recogniser_ends_its_stream_alone(
    make_streams: MakeStreams, pool: RecogniserPool, model: SpeechModel, said: Utterance
) -> None:
    streams = make_streams()
    doomed = await streams.open(SOMEBODY, [model], LiveOptions())
    (launcher,) = pool.loaded().values()
    kill_children(launcher, signal.SIGABRT)
    with pytest.raises(UnavailableError) as error:
        await streams.feed(SOMEBODY, doomed.stream_id, said.samples)
    assert error.value.code == "recogniser_died"
    with pytest.raises(NotFoundError):
        await streams.feed(SOMEBODY, doomed.stream_id, said.samples)
    stream = await streams.open(SOMEBODY, [model], LiveOptions())
    assert text_of(await feed_all(streams, stream.stream_id, said.samples)) == said.transcript


async def test_caller_who_leaves_in_the_middle_ends_the_stream(
    make_streams: MakeStreams, pool: RecogniserPool, model: SpeechModel, said: Utterance
) -> None:
    streams = make_streams()
    stream = await streams.open(SOMEBODY, [model], LiveOptions())
    feeding = asyncio.create_task(streams.feed(SOMEBODY, stream.stream_id, (said.samples * 20)[: 2**20]))
    await asyncio.sleep(0.01)
    feeding.cancel()
    await asyncio.gather(feeding, return_exceptions=True)
    assert pool.open_recognisers == 0
    with pytest.raises(NotFoundError):
        await streams.finish(SOMEBODY, stream.stream_id)


@pytest.mark.parametrize(
    ("options", "param"),
    [
        (LiveOptions(sample_rate=7999), "sample_rate"),
        (LiveOptions(sample_rate=768_000), "sample_rate"),
        (LiveOptions(sample_rate=0), "sample_rate"),
        (LiveOptions(max_alternatives=-1), "max_alternatives"),
        (LiveOptions(max_alternatives=1000), "max_alternatives"),
    ],
)
async def test_options_out_of_range_are_refused(
    make_streams: MakeStreams, model: SpeechModel, options: LiveOptions, param: str
) -> None:
    with pytest.raises(InvalidRequestError) as refusal:
        await make_streams().open(SOMEBODY, [model], options)
    assert refusal.value.param == param


async def test_piece_that_is_too_large_leaves_the_stream_open(make_streams: MakeStreams, model: SpeechModel) -> None:
    streams = make_streams()
    stream = await streams.open(SOMEBODY, [model], LiveOptions())
    with pytest.raises(InvalidRequestError, match="smaller pieces"):
        await streams.feed(SOMEBODY, stream.stream_id, bytes(2**20 + 1))
    await streams.feed(SOMEBODY, stream.stream_id, silence(0.1))


async def test_stream_ends_at_its_longest_length(make_streams: MakeStreams, model: SpeechModel) -> None:
    streams = make_streams(max_audio_s=1.0)
    stream = await streams.open(SOMEBODY, [model], LiveOptions())
    with pytest.raises(InvalidRequestError, match="at most 1 s"):
        for _ in range(20):
            await streams.feed(SOMEBODY, stream.stream_id, silence(0.25))


class _SlowToEnd(WaveDecoder):
    """A decoder whose work takes a moment to end."""

    async def decode_audio(self, data: bytes | AsyncIterator[bytes], *, max_duration_s: float) -> AsyncGenerator[bytes, None]:
        try:
            await asyncio.Event().wait()
            yield b""
        finally:
            await asyncio.sleep(0.05)


async def test_close_that_is_cancelled_ends_the_recogniser_all_the_same(pool: RecogniserPool, model: SpeechModel) -> None:
    streams = LiveStreams(pool, _SlowToEnd(), LiveLimits(max_streams=1))
    stream = await streams.open(SOMEBODY, [model], LiveOptions(encoding="container"))
    await streams.feed(SOMEBODY, stream.stream_id, b"RIFF")
    closing = asyncio.create_task(streams.close(SOMEBODY, stream.stream_id))
    await asyncio.sleep(0.01)
    closing.cancel()
    await asyncio.gather(closing, return_exceptions=True)
    assert pool.open_recognisers == 0
