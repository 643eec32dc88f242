"""The processes behind the decoder: when they run, what ends them, and what they may not do."""

import asyncio
import contextlib
import http.server
import os
import signal
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import TypeVar

import psutil
import pytest

from aihub.core.errors import OverloadedError, UnavailableError
from aihub.media.decoder import SandboxedDecoder
from aihub.media.limits import MediaLimits
from aihub.media.service import MediaError, MediaFacts
from tests.unit.media.media_files import encoded_audio, image, spoken_wav, video

T = TypeVar("T")

GOOD = spoken_wav(0.5)
LONG = spoken_wav(3_000.0)


def processes() -> list[psutil.Process]:
    """Launchers of media processes below this one, which the tests of this module alone start."""
    found = []
    for child in psutil.Process().children():
        with contextlib.suppress(psutil.ZombieProcess, psutil.NoSuchProcess):
            if "aihub.media.worker" in child.cmdline():
                found.append(child)
    return found


def gone(*victims: psutil.Process) -> bool:
    _, alive = psutil.wait_procs(victims, 10)
    return all(process.status() == psutil.STATUS_ZOMBIE for process in alive if process.is_running())


async def until(condition: Callable[[], T]) -> T:
    async with asyncio.timeout(20):
        while not (found := condition()):  # noqa: ASYNC110 - only the kernel knows
            await asyncio.sleep(0.01)
        return found


@contextlib.asynccontextmanager
async def decoding(processes: int = 1, *, limits: MediaLimits | None = None, **options: float) -> AsyncIterator[SandboxedDecoder]:
    decoder = SandboxedDecoder(processes, limits=limits, **options)  # type: ignore[arg-type]  # counts and seconds
    try:
        yield decoder
    finally:
        await decoder.close()


async def hear(decoder: SandboxedDecoder, data: bytes | AsyncIterator[bytes]) -> bytes:
    return b"".join([piece async for piece in decoder.decode_audio(data, max_duration_s=3600)])


async def works(decoder: SandboxedDecoder) -> bool:
    return await hear(decoder, GOOD) == GOOD[44:]


async def test_no_process_runs_before_the_first_file_nor_after_a_rest() -> None:
    async with decoding(2, rest_after_s=0.2) as decoder:
        assert processes() == []
        tasks = asyncio.all_tasks()
        assert all(await asyncio.gather(works(decoder), works(decoder)))
        assert len(processes()) == 2
        await until(lambda: not processes())
        await until(lambda: asyncio.all_tasks() == tasks)  # not even a timer
        assert await works(decoder)


async def test_a_used_process_answers_the_next_file() -> None:
    async with decoding() as decoder:
        assert await works(decoder)
        first = processes()
        with pytest.raises(MediaError):
            await decoder.probe(b"nothing")
        assert (await decoder.prepare_image(image(), max_pixels=100)).width == 11
        assert (await decoder.sample_video(video([0, 40]), max_frames=2, max_pixels=99, max_duration_s=9)).frames
        assert await works(decoder) and processes() == first


async def test_facts_come_from_the_content() -> None:
    async with decoding() as decoder:
        assert await decoder.probe(GOOD) == MediaFacts("audio", "wav", 0.5, has_audio=True)
        assert await decoder.probe(image("JPEG")) == MediaFacts("image", "jpeg", width=40, height=30)
        facts = await decoder.probe(video(range(0, 2000, 40), with_audio=True))
        assert (facts.kind, facts.format, facts.has_audio, facts.width, facts.height) == ("video", "mp4", True, 64, 48)
        assert facts.duration_s == pytest.approx(2.0, abs=0.2)
        assert (await decoder.probe(encoded_audio("webm", "libopus"))).kind == "audio"


async def test_pieces_last_at_most_half_a_second() -> None:
    async with decoding() as decoder:
        sizes = [len(piece) async for piece in decoder.decode_audio(spoken_wav(2.3), max_duration_s=9)]
        assert sizes == [16_000, 16_000, 16_000, 16_000, 9_600]


async def test_sound_is_given_before_the_file_has_come_in_whole() -> None:
    data, sent, heard = encoded_audio("ogg", "libopus", 8.0), 0, 0

    async def pieces() -> AsyncIterator[bytes]:
        nonlocal sent
        for start in range(0, len(data), 4_000):
            # What was sent longer than 3 s of sound ago has been heard.
            assert heard >= (sent / len(data) * 8.0 - 3.0) * 32_000
            sent = start
            yield data[start : start + 4_000]
            yield b""

    async with decoding() as decoder:
        async for piece in decoder.decode_audio(pieces(), max_duration_s=60):
            heard += len(piece)
        assert heard == 8 * 32_000


async def test_nothing_is_decoded_far_ahead_of_who_listens() -> None:
    async with decoding() as decoder:
        stream = decoder.decode_audio(LONG, max_duration_s=3600)
        await anext(stream)
        (launcher,) = processes()
        (child,) = launcher.children()
        await asyncio.sleep(0.3)
        before = sum(child.cpu_times()[:2])
        await asyncio.sleep(0.3)
        assert sum(child.cpu_times()[:2]) == before
        await stream.aclose()
        assert gone(launcher, child)
        assert await works(decoder)


async def test_cancelling_ends_the_process_at_once() -> None:
    async with decoding() as decoder:
        task = asyncio.create_task(hear(decoder, LONG))
        (launcher,) = await until(processes)
        (child,) = await until(launcher.children)
        await until(lambda: sum(child.cpu_times()[:2]) > 0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert not launcher.is_running() and gone(child)
        assert await works(decoder)


async def test_cancelling_while_the_process_starts_leaves_none() -> None:
    async with decoding() as decoder:
        task = asyncio.create_task(works(decoder))
        await until(processes)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert processes() == []
        assert await works(decoder)


async def test_a_sender_that_fails_ends_the_process_and_its_error_comes_through() -> None:
    async def pieces() -> AsyncIterator[bytes]:
        yield GOOD[:1000]
        raise ConnectionResetError("the client left")

    async with decoding() as decoder:
        with pytest.raises(ConnectionResetError, match="the client left"):
            await hear(decoder, pieces())
        assert processes() == []
        assert await works(decoder)


async def test_a_sender_that_is_slow_is_waited_for() -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for start in range(0, len(GOOD), 4_000):
            await asyncio.sleep(0.3)
            yield GOOD[start : start + 4_000]

    async with decoding(limits=MediaLimits(step_s=0.25)) as decoder:
        await decoder.probe(GOOD)
        assert await hear(decoder, pieces()) == GOOD[44:]


async def test_files_wait_in_order_and_not_too_many_of_them() -> None:
    async with decoding(1, max_waiting=2) as decoder:
        first = decoder.decode_audio(LONG, max_duration_s=3600)
        await anext(first)
        waiting = [asyncio.create_task(works(decoder)) for _ in range(2)]
        await asyncio.sleep(0)
        with pytest.raises(OverloadedError):
            await decoder.probe(GOOD)
        await first.aclose()
        assert await asyncio.gather(*waiting) == [True, True]


async def test_many_files_at_once_are_all_right() -> None:
    sounds = [spoken_wav(0.1 * count) for count in range(1, 21)]
    async with decoding(2) as decoder:
        assert await asyncio.gather(*(hear(decoder, sound) for sound in sounds)) == [sound[44:] for sound in sounds]
        assert len(processes()) == 2


@pytest.mark.parametrize(
    ("signum", "code"),
    [
        (signal.SIGABRT, "invalid_media"),
        (signal.SIGSEGV, "invalid_media"),
        (signal.SIGKILL, "media_memory"),
        (signal.SIGXCPU, "media_timeout"),
    ],
)
async def test_a_decoder_that_dies_costs_its_own_file_alone(signum: signal.Signals, code: str) -> None:
    async with decoding() as decoder:
        stream = decoder.decode_audio(LONG, max_duration_s=3600)
        await anext(stream)
        (launcher,) = processes()
        for child in launcher.children():
            os.kill(child.pid, signum)
        with pytest.raises(MediaError) as caught:
            async for _ in stream:
                pass
        assert caught.value.code == code
        assert await works(decoder)


async def test_a_file_that_takes_too_much_processor_time_is_ended() -> None:
    async with decoding(limits=MediaLimits(cpu_s=1)) as decoder:
        with pytest.raises(MediaError, match="1 s of processor time") as caught:
            async for _ in decoder.decode_audio(encoded_audio("mp3", "libmp3lame", rate_hz=22_050) * 2_500, max_duration_s=10**6):
                pass
        assert caught.value.code == "media_timeout"
        assert await works(decoder)


async def test_a_file_that_takes_too_much_memory_is_ended() -> None:
    async with decoding(limits=MediaLimits(memory_mb=100)) as decoder:
        with pytest.raises(MediaError, match="100 MiB") as caught:
            await decoder.prepare_image(image("PNG", (6_000, 6_000)), max_pixels=1_000)
        assert caught.value.code == "media_memory"
        assert await works(decoder)


async def test_a_process_that_stands_still_is_ended_by_the_clock() -> None:
    async with decoding(limits=MediaLimits(step_s=0.5)) as decoder:
        assert await works(decoder)
        (launcher,) = processes()
        (child,) = launcher.children()
        child.suspend()
        with pytest.raises(MediaError) as caught:
            await decoder.probe(GOOD)
        assert caught.value.code == "media_timeout"
        assert gone(launcher, child)
        assert await works(decoder)


async def test_closing_ends_what_goes_on() -> None:
    async with decoding() as decoder:
        stream = decoder.decode_audio(LONG, max_duration_s=3600)
        await anext(stream)
        waiting = asyncio.create_task(works(decoder))
        await asyncio.sleep(0)
        closing = asyncio.create_task(decoder.close())
        with pytest.raises(UnavailableError):
            async for _ in stream:
                pass
        await closing
        with pytest.raises(UnavailableError):
            await waiting
        with pytest.raises(UnavailableError):
            await decoder.probe(GOOD)
        assert processes() == []


async def test_processes_that_see_files_are_confined() -> None:
    async with decoding() as decoder:
        assert await works(decoder)
        (launcher,) = processes()
        for process in (launcher, *launcher.children()):
            status = await asyncio.to_thread(Path(f"/proc/{process.pid}/status").read_text, "utf-8")
            assert "Seccomp:\t2" in status and "NoNewPrivs:\t1" in status


@pytest.fixture
def canary() -> Iterator[tuple[str, list[str]]]:
    """A server, and the paths it was asked for."""
    asked: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(404)
            self.end_headers()

        def log_message(self, *_arguments: object) -> None:
            """Nothing to say."""

    server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", asked
    server.shutdown()
    thread.join()
    server.server_close()


def lures(url: str, path: Path) -> dict[str, bytes]:
    """Files that have players open other files."""
    playlist = f"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{url}/a.ts\n#EXTINF:9,\nfile://{path}\n#EXT-X-ENDLIST\n".encode()
    quicktime = video(range(0, 400, 40), container="mov")
    # A track whose samples lie in another file: the flag that they lie in this one is taken away.
    at = quicktime.index(b"url \0\0\0\1") - 4
    named = f"{url}/other.mov".encode() + b"\0"
    elsewhere = quicktime[:at] + b"\0\0\0\x0curl \0\0\0\0" + quicktime[at + 12 :]
    return {
        "HLS": playlist,
        "HLS behind the start of an MP3": b"ID3\4\0\0\0\0\0\0" + playlist,
        "HLS behind the start of a WAV": b"RIFF\0\0\0\0WAVE" + playlist,
        "HLS behind the start of an MP4": b"\0\0\0\x08ftyp" + playlist,
        "concat": f"ffconcat version 1.0\nfile {path}\nfile {url}/a.wav\n".encode(),
        "DASH": f"<MPD><Period><BaseURL>{url}/</BaseURL></Period></MPD>".encode(),
        "PLS": f"[playlist]\nFile1={url}/a.mp3\n".encode(),
        "SDP": f"v=0\nc=IN IP4 127.0.0.1\nm=audio 9 RTP/AVP 0\na=control:{url}\n".encode(),
        "QuickTime with its samples elsewhere": elsewhere + named,
        "SVG": f"<svg><image href='{url}/a.png'/><image href='file://{path}'/></svg>".encode(),
    }


async def test_no_file_has_another_file_or_address_opened(canary: tuple[str, list[str]], tmp_path: Path) -> None:
    url, asked = canary
    secret = spoken_wav(1.0)
    (tmp_path / "secret.wav").write_bytes(secret)
    async with decoding() as decoder:
        for name, data in lures(url, tmp_path / "secret.wav").items():
            for attempt in (
                decoder.probe(data),
                hear(decoder, data),
                decoder.prepare_image(data, max_pixels=100),
                decoder.sample_video(data, max_frames=2, max_pixels=100, max_duration_s=9),
            ):
                with contextlib.suppress(MediaError):
                    assert secret[44:1044] not in repr(await attempt).encode(), name
        assert await works(decoder)
    assert asked == []
