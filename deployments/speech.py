"""The `speech` deployment: recognition of files and live streams, in processes of its own."""

import asyncio
import os

from prometheus_client import generate_latest

from aihub.core.health import PartHealth
from aihub.core.logging import configure_logging
from aihub.core.profiles import SpeechProfile
from aihub.core.settings import Settings
from aihub.media.decoder import SandboxedDecoder
from aihub.models.store.speech_models import open_speech_models
from aihub.speech.engine import SpeechEngine, SpeechPlaces
from aihub.speech.metrics import SpeechMetrics
from aihub.speech.models import SpeechModels
from aihub.speech.service import SpeechService
from aihub.speech.settings import SpeechSettings
from deployments.cancellation import quiet_cancellations, quiet_refusals
from deployments.metering import metered, new_meter
from deployments.service_client import offers

STREAMS_PER_CORE = 8


def speech_places(profile: SpeechProfile, cores: int) -> SpeechPlaces:
    """Return how much is heard at a time on this machine."""
    return SpeechPlaces(profile.parallel_parts or cores, profile.max_streams or STREAMS_PER_CORE * cores)


@metered(SpeechService)
@offers(SpeechService, "_engine", prefix="")
class Speech:
    """Called over its handle by the ingress. Nothing runs beside it until the first request."""

    async def __init__(self, settings: Settings, profile: SpeechProfile) -> None:  # type: ignore[misc]  # Serve awaits it
        configure_logging()
        quiet_cancellations()
        quiet_refusals()
        self.meter = new_meter()
        speech = SpeechSettings()
        places = speech_places(profile, len(os.sched_getaffinity(0)))
        self._metrics = SpeechMetrics()
        # One for each file that is let in: a long one holds its until it is heard, and a short one must not wait for that.
        self._decoder = SandboxedDecoder(speech.max_waiting_files)
        self._live_decoder = SandboxedDecoder(places.max_streams)
        self._engine = SpeechEngine(
            SpeechModels(await asyncio.to_thread(open_speech_models, settings)),
            self._decoder,
            speech,
            places,
            self._metrics,
            live_decoder=self._live_decoder,
        )

    async def metrics(self) -> bytes:
        """What was recognised, in Prometheus' text format."""
        return generate_latest(self._metrics.registry)

    async def health(self) -> PartHealth:
        """Answer the ingress's probe; without a model the part is well, and says that it has none."""
        models = await self._engine.models()
        return PartHealth("ok", None if models else "no speech model is installed; `aihub models download vosk:vi` gets one")

    async def __del__(self) -> None:
        await self._engine.shut_down()
        await self._decoder.close()
        await self._live_decoder.close()
