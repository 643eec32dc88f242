"""Hub models against a small server that speaks the hub's protocol; the real client library asks it."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from aihub.models.store.downloads.failures import (
    CorruptDownloadError,
    DiskFullError,
    DownloadError,
    RetryPolicy,
    SourceRefusedError,
)
from aihub.models.store.downloads.huggingface_model import HubFetcher
from tests.unit.models.store.downloads.hub_server import COMMIT, KEY, Hub
from tests.unit.models.store.downloads.orders import Reports, order

QUICK = RetryPolicy(attempts=2, backoff_s=0.01, connect_s=2.0, stall_s=0.5)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    # The library reads the variable once, when it is imported; these tests talk to their own server even in an offline run.
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    # The library asks huggingface.co once a process for names of coding agents, whatever endpoint it is given.
    monkeypatch.setattr("huggingface_hub.utils._detect_agent._fetch_registry", lambda: None)
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    started = Hub()
    yield started
    started.stop()


async def fetch(hub: Hub, staging: Path, key: str = KEY, *, installed: str | None = None, **parts: Any) -> Any:
    fetcher = HubFetcher(endpoint=hub.url, retry_policy=QUICK, **parts)
    return await fetcher.fetch(order(staging, key, installed=installed), parts.pop("reports", Reports()))


def content(staging: Path) -> dict[str, bytes]:
    folder = staging / "content"
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def wanted(hub: Hub) -> dict[str, bytes]:
    return {name: hub.files[name] for name in ("config.json", "tokenizer.json", "model.safetensors")}


async def test_safe_files_of_the_newest_commit_arrive(hub: Hub, tmp_path: Path) -> None:
    fetched = await fetch(hub, tmp_path)
    assert (fetched.digest, fetched.source, fetched.folder) == (COMMIT, KEY, tmp_path / "content")
    assert content(tmp_path) == wanted(hub)
    assert sorted(name for name, _, _ in hub.asked) == sorted(wanted(hub))
    assert {token for _, _, token in hub.asked} == {"Bearer hf_secret"}


async def test_progress_counts_all_files_together(hub: Hub, tmp_path: Path) -> None:
    reports = Reports()
    await HubFetcher(endpoint=hub.url, retry_policy=QUICK).fetch(order(tmp_path, KEY), reports)
    total = sum(map(len, wanted(hub).values()))
    downloading = [done for step, done, _ in reports.seen if step == "downloading"]
    assert downloading == sorted(downloading)
    assert downloading[-1] == total
    assert reports.steps == ["looking up", "downloading", "verifying"]


async def test_an_installed_commit_is_not_fetched_again(hub: Hub, tmp_path: Path) -> None:
    assert (await fetch(hub, tmp_path, installed=COMMIT)).folder is None
    assert hub.asked == []


async def test_a_cut_weights_file_is_continued_and_whole_files_are_kept(hub: Hub, tmp_path: Path) -> None:
    hub.cut_after["model.safetensors"] = 500_000
    await fetch(hub, tmp_path)
    assert ("model.safetensors", "bytes=500000-", "Bearer hf_secret") in hub.asked
    hub.asked.clear()
    await fetch(hub, tmp_path)
    assert hub.asked == []
    assert content(tmp_path) == wanted(hub)


async def test_a_new_commit_replaces_what_an_earlier_try_left(hub: Hub, tmp_path: Path) -> None:
    hub.files["old.json"] = b"{}"
    await fetch(hub, tmp_path)
    hub.commit = "b" * 40
    del hub.files["old.json"]
    hub.files["config.json"] = b'{"model_type": "qwen2"}'
    hub.asked.clear()
    assert (await fetch(hub, tmp_path)).digest == "b" * 40
    assert content(tmp_path) == wanted(hub)
    assert [name for name, _, _ in hub.asked] == ["config.json"]


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
async def test_a_file_that_is_not_the_commits_is_refused(hub: Hub, tmp_path: Path, name: str) -> None:
    hub.damaged[name] = hub.files[name][:-1] + b"?"
    with pytest.raises(CorruptDownloadError):
        await fetch(hub, tmp_path)
    assert name not in content(tmp_path)


@pytest.mark.parametrize(("hub_id", "reason"), [("org/unknown", "shows no org/unknown"), ("org/gated", "asks for a licence")])
async def test_what_the_hub_refuses_is_said(hub: Hub, tmp_path: Path, hub_id: str, reason: str) -> None:
    with pytest.raises(DownloadError, match=reason):
        await fetch(hub, tmp_path, f"hf:{hub_id}")


async def test_weights_without_safetensors_are_not_fetched(hub: Hub, tmp_path: Path) -> None:
    del hub.files["model.safetensors"]
    with pytest.raises(SourceRefusedError, match="no safetensors weights"):
        await fetch(hub, tmp_path)
    assert hub.asked == []


async def test_a_model_that_asks_to_run_its_code_is_refused(hub: Hub, tmp_path: Path) -> None:
    hub.files["config.json"] = b'{"auto_map": {"AutoModel": "modeling_custom.Model"}}'
    with pytest.raises(SourceRefusedError, match="auto_map"):
        await fetch(hub, tmp_path)


@pytest.mark.parametrize("name", ["../evil.json", "/etc/evil.json", "a/../../evil.json", "a\\evil.json"])
async def test_a_file_name_that_leaves_the_folder_is_refused(hub: Hub, tmp_path: Path, name: str) -> None:
    hub.files[name] = b"{}"
    with pytest.raises(SourceRefusedError, match="unsafe path"):
        await fetch(hub, tmp_path)
    assert hub.asked == []


async def test_room_is_asked_for_before_the_first_byte(hub: Hub, tmp_path: Path) -> None:
    with pytest.raises(DiskFullError):
        await fetch(hub, tmp_path, free=lambda _: 2**20)
    assert hub.asked == []


async def test_no_hub_is_one_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    # The library asks huggingface.co once a process for names of coding agents, whatever endpoint it is given.
    monkeypatch.setattr("huggingface_hub.utils._detect_agent._fetch_registry", lambda: None)
    fetcher = HubFetcher(endpoint="http://127.0.0.1:9", retry_policy=QUICK)
    async with asyncio.timeout(30):
        with pytest.raises(DownloadError, match="the hub does not answer"):
            await fetcher.fetch(order(tmp_path, KEY), Reports())
