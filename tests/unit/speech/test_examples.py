"""The examples that stream speech, as programs of their own; the microphone is played by a module of the same name."""

import subprocess
import sys
import wave
from collections.abc import Iterator
from pathlib import Path

import pytest

from aihub.speech.fake import FakeSpeech
from tests.unit.conftest import LiveServer
from tests.unit.http.services import Parts
from tests.unit.speech.audio_files import wav

ROOT = Path(__file__).resolve().parents[3]
SCRIPT = ("xin chào", "cửa hàng mở cửa lúc tám giờ")
MICROPHONE = """
import os, signal, threading

class PortAudioError(Exception):
    pass

class RawInputStream:
    def __init__(self, *, blocksize, callback, dtype, channels, **_):
        assert (dtype, channels) == ("int16", 1)
        self.piece, self.callback = bytes(2 * blocksize), callback
    def __enter__(self):
        def speak():
            for _ in range(12):
                self.callback(self.piece, 0, None, None)
            threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT)).start()
        threading.Thread(target=speak).start()
    def __exit__(self, *_):
        pass
"""


@pytest.fixture(scope="module")
def live() -> Iterator[LiveServer]:
    server = LiveServer(Parts(speech=FakeSpeech(script=SCRIPT)))
    server.start()
    yield server
    server.stop()


def run(name: str, *arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, str(ROOT / "examples" / name), *arguments],
        capture_output=True, text=True, timeout=30, env={"PATH": "", "PYTHONIOENCODING": "utf-8"} | environment, check=False,
    )  # fmt: skip


def test_file_is_streamed_at_the_speed_asked_for(live: LiveServer, tmp_path: Path) -> None:
    file = tmp_path / "speech.wav"
    file.write_bytes(wav(4.0, 16_000))
    done = run("stream_file.py", str(file), "--url", live.url, "--model", "vosk:vi", "--speed", "20")
    assert (done.returncode, done.stdout) == (0, "".join(f"{text}\n" for text in SCRIPT)), done.stderr
    assert live.parts.speech.options[-1].sample_rate == 16_000


def test_other_files_are_left_to_the_hub_to_decode(live: LiveServer, tmp_path: Path) -> None:
    file = tmp_path / "stereo.wav"
    with wave.open(str(file), "wb") as writer:
        writer.setnchannels(2)
        writer.setsampwidth(2)
        writer.setframerate(16_000)
        writer.writeframes(bytes(64_000))
    done = run("stream_file.py", str(file), AIHUB_URL=live.url)
    assert done.returncode == 0, done.stderr
    assert live.parts.speech.options[-1].encoding == "container"


def test_refusal_of_the_hub_ends_the_example_with_its_message(live: LiveServer, tmp_path: Path) -> None:
    file = tmp_path / "speech.wav"
    file.write_bytes(wav(1.0))
    done = run("stream_file.py", str(file), "--url", live.url, "--model", "vosk:de")
    assert done.returncode == 1
    assert "vosk:en, vosk:vi" in done.stderr


def test_microphone_is_streamed_until_ctrl_c(live: LiveServer, tmp_path: Path) -> None:
    (tmp_path / "sounddevice.py").write_text(MICROPHONE, encoding="utf-8")
    done = run("microphone.py", "--url", live.url, "--model", "vosk:vi", PYTHONPATH=str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert "xin chào\n" in done.stdout
    assert not live.parts.speech.streams


def test_missing_sounddevice_is_told_with_the_command_that_installs_it(tmp_path: Path) -> None:
    (tmp_path / "sounddevice.py").write_text("raise ImportError('not here')", encoding="utf-8")
    done = run("microphone.py", PYTHONPATH=str(tmp_path))
    assert done.returncode == 1
    assert done.stderr.strip().endswith("pip install sounddevice")


def test_missing_portaudio_is_told(tmp_path: Path) -> None:
    (tmp_path / "sounddevice.py").write_text("raise OSError('PortAudio library not found')", encoding="utf-8")
    assert "libportaudio2" in run("microphone.py", PYTHONPATH=str(tmp_path)).stderr
