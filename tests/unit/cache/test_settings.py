import pytest

from aihub.cache.settings import CacheSettings
from aihub.core.errors import ConfigurationError


def test_an_entry_is_never_larger_than_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIHUB_CACHE_MB", "1")
    monkeypatch.setenv("AIHUB_CACHE_ENTRY_KB", "4096")
    settings = CacheSettings()
    assert (settings.max_bytes, settings.max_entry_bytes) == (2**20, 2**20)


def test_a_size_of_zero_keeps_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIHUB_CACHE_MB", "0")
    assert CacheSettings().max_bytes == 0


@pytest.mark.parametrize(("name", "value"), [("MB", "-1"), ("MB", "x"), ("TTL_S", "0"), ("TTL_S", "604801"), ("ENTRY_KB", "0")])
def test_a_wrong_variable_is_named(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(f"AIHUB_CACHE_{name}", value)
    with pytest.raises(ConfigurationError, match=f"AIHUB_CACHE_{name}"):
        CacheSettings()
