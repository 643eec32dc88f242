"""What speech recognition counts, for Prometheus."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

_FACTORS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.35, 0.5, 0.75, 1.0, 1.5, 2.0, 5.0)


class SpeechMetrics:
    """Counters of the speech application.

    Args:
        registry: Where they are listed; a new one when None.
    """

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        self.registry = registry or CollectorRegistry()
        self.audio_seconds = Counter(
            "aihub_speech_audio_seconds", "Seconds of audio that were recognised.", ("model", "kind"), registry=self.registry
        )
        self.real_time_factor = Histogram(
            "aihub_speech_real_time_factor",
            "Seconds that a file took, in all, for each second of its audio.",
            ("model",),
            buckets=_FACTORS,
            registry=self.registry,
        )
        self.open_streams = Gauge("aihub_speech_open_streams", "Live streams that are open.", registry=self.registry)
        self.files = Gauge("aihub_speech_files", "Files that are transcribed or wait.", registry=self.registry)
        self.deaths = Counter(
            "aihub_speech_recogniser_deaths",
            "Recogniser processes that ended without being told to.",
            ("exit_code",),
            registry=self.registry,
        )
        self.loaded_models = Gauge("aihub_speech_loaded_models", "Speech models in memory.", registry=self.registry)
