import pytest

from aihub.core.settings import Settings
from deployments.app import with_own_names


def test_the_machines_own_names_are_allowed_where_others_reach_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("socket.gethostname", lambda: "box")
    settings = Settings(allowed_hosts=("hub.example.org",))
    assert with_own_names(settings, "127.0.0.1").allowed_hosts == ("hub.example.org",)
    assert with_own_names(settings, "0.0.0.0").allowed_hosts == ("hub.example.org", "box", "box.local")  # noqa: S104  # nothing listens
