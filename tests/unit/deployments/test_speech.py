"""The `speech` deployment without a cluster: its places, its health, and its methods."""

import asyncio
import inspect
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from aihub.core.principal import Principal
from aihub.core.profiles import SpeechProfile
from aihub.core.settings import Settings
from aihub.speech.engine import SpeechPlaces
from aihub.speech.service import RecognitionOptions, SpeechService
from deployments.service_client import methods_of
from deployments.speech import Speech, speech_places
from tests.speech_data import speech_model, utterances, wav_of

# Serve awaits `__del__`; Python would call it, and await nothing.
_OF_SERVE = {"__del__", "__dict__", "__weakref__"}
Held: Any = type("Held", (), {name: value for name, value in vars(Speech).items() if name not in _OF_SERVE})


@pytest.fixture
async def speech(tmp_path: Path) -> AsyncIterator[Any]:
    deployed = Held.__new__(Held)
    settings = await asyncio.to_thread(Settings, home=tmp_path)
    await deployed.__init__(settings, SpeechProfile())
    yield deployed
    await vars(Speech)["__del__"](deployed)


def test_places_follow_from_the_cores_unless_the_profile_says_them() -> None:
    assert speech_places(SpeechProfile(), cores=4) == SpeechPlaces(parallel_parts=4, max_streams=32)
    assert speech_places(SpeechProfile(parallel_parts=3, max_streams=5), cores=8) == SpeechPlaces(3, 5)


def test_every_method_of_the_service_is_offered() -> None:
    for name, is_stream in methods_of(SpeechService):
        method = getattr(Speech, name)
        assert inspect.isasyncgenfunction(method) if is_stream else inspect.iscoroutinefunction(method)


async def test_part_is_well_without_a_model_and_says_that_it_has_none(speech: Any, tmp_path: Path) -> None:
    health = await speech.health()
    assert health.status == "ok"
    assert "aihub models download vosk:vi" in str(health.reason)
    shutil.copytree(speech_model("en"), tmp_path / "models" / "spoken-en")
    assert (await speech.health()).reason is None


async def test_file_is_heard_and_counted(speech: Any, tmp_path: Path) -> None:
    shutil.copytree(speech_model("en"), tmp_path / "models" / "spoken-en")
    said = utterances("en")[-1]
    options = RecognitionOptions(model="vosk:spoken-en")
    transcript = await speech.transcribe(Principal(), wav_of(said.samples), options)
    assert transcript.text == said.transcript
    assert b'aihub_speech_audio_seconds_total{kind="file",model="vosk:spoken-en"}' in await speech.metrics()
