"""`aihub speech` against the API on a real socket."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import srt
from typer.testing import CliRunner, Result

from aihub.cli.main import app
from aihub.core.errors import InvalidRequestError, UnavailableError
from aihub.speech.fake import FakeSpeech
from tests.unit.conftest import LiveServer
from tests.unit.http.services import Parts
from tests.unit.speech.audio_files import wav

SCRIPT = ("xin chào", "cửa hàng mở cửa lúc tám giờ")
TEXT = " ".join(SCRIPT)


@pytest.fixture(scope="module")
def live() -> Iterator[LiveServer]:
    server = LiveServer(Parts(speech=FakeSpeech(script=SCRIPT)))
    server.start()
    yield server
    server.stop()


@pytest.fixture
def speech(live: LiveServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeSpeech]:
    monkeypatch.setenv("AIHUB_URL", live.url)
    yield live.parts.speech
    live.parts.speech.error = None


@pytest.fixture
def file(tmp_path: Path) -> str:
    path = tmp_path / "bài giảng.wav"
    path.write_bytes(wav(9.0))
    return str(path)


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["speech", *arguments])


def test_text_is_printed(speech: FakeSpeech, file: str) -> None:
    result = run("transcribe", file, file, "--model", "vosk:vi")
    assert (result.exit_code, result.stdout) == (0, f"{TEXT}\n{TEXT}\n")
    assert "bài giảng.wav" in result.stderr


def test_subtitles_go_to_a_folder(speech: FakeSpeech, file: str, tmp_path: Path) -> None:
    result = run("transcribe", file, "--language", "vi", "--format", "srt", "--output", str(tmp_path / "out"))
    assert result.exit_code == 0
    cues = list(srt.parse((tmp_path / "out" / "bài giảng.srt").read_text(encoding="utf-8")))
    assert [cue.content for cue in cues] == list(SCRIPT)


def test_two_files_of_one_name_are_refused_before_the_first_is_heard(speech: FakeSpeech, tmp_path: Path) -> None:
    files = [tmp_path / "a" / "bài.wav", tmp_path / "b" / "bài.mp3"]
    for path in files:
        path.parent.mkdir()
        path.write_bytes(wav(1.0))
    speech.options.clear()
    result = run("transcribe", *map(str, files), "--output", str(tmp_path / "out"))
    assert result.exit_code == 2
    shown = "".join(result.output.split()).replace("│", "")
    assert all(str(path) in shown for path in files)
    assert not speech.options
    assert not (tmp_path / "out").exists()


def test_json_is_the_api_s(speech: FakeSpeech, file: str) -> None:
    answer = json.loads(run("transcribe", file, "--model", "vosk:vi", "--format", "verbose_json").stdout)
    assert (answer["text"], answer["language"], answer["duration"]) == (TEXT, "vi", 9.0)
    assert len(answer["words"]) == 9
    assert [segment["text"] for segment in answer["segments"]] == list(SCRIPT)


def test_phrases_reach_the_recogniser(speech: FakeSpeech, file: str) -> None:
    assert run("transcribe", file, "--phrases", "xin chào", "--phrases", "tạm biệt").exit_code == 0
    assert speech.options[-1].phrases == ("xin chào", "tạm biệt")


def test_refusal_is_one_line_and_exit_code_2(speech: FakeSpeech, file: str) -> None:
    speech.error = InvalidRequestError("The file is no audio. Send WAV.")
    result = run("transcribe", file)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.endswith("aihub: The file is no audio. Send WAV.\n")


def test_failure_in_the_middle_is_one_line_and_exit_code_1(
    live: LiveServer, speech: FakeSpeech, file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def hear(_: bytes) -> Iterator[object]:
        yield from ()
        raise UnavailableError("The recogniser died. Send the file again.")

    monkeypatch.setattr(speech, "_hear", hear)
    result = run("transcribe", file)
    assert (result.exit_code, result.stdout) == (1, "")
    assert "The recogniser died." in result.stderr


def test_wrong_format_and_missing_file_are_told_before_the_hub_is_asked(file: str) -> None:
    assert "verbose_json" in run("transcribe", file, "--format", "docx").stderr
    assert run("transcribe", "/nowhere.wav").exit_code == 2


def test_hub_that_is_away_is_one_line(file: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIHUB_URL", "http://127.0.0.1:1")
    result = run("transcribe", file)
    assert result.exit_code == 1
    assert "aihub serve" in result.stderr


def test_models_are_listed_or_how_to_get_one(speech: FakeSpeech) -> None:
    assert run("models").stdout == "vosk:en\nvosk:vi\n"
    here, speech.models_here = speech.models_here, ()
    try:
        assert "aihub models download vosk:vi" in run("models").stdout
    finally:
        speech.models_here = here
