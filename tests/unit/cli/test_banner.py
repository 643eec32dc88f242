from pathlib import Path

import pytest

from aihub.accounts.api_keys import ApiKey
from aihub.accounts.fake import FakeAuthenticator
from aihub.cli import serve
from aihub.core.principal import Principal
from tests.external_servers import free_port
from tests.unit.conftest import LiveServer
from tests.unit.http.services import Parts


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "serve.log"
    path.touch()
    return path


def test_open_hub_says_who_may_use_it_and_how_to_close_it(log: Path) -> None:
    printed = serve.render("http://127.0.0.1:8000", log, "m", is_open=True)
    assert "anyone on this machine may use everything" in printed
    assert "aihub keys create --name" in printed
    assert "Authorization" not in printed


def test_closed_hub_shows_the_key_in_its_example_by_the_name_of_the_variable_only(log: Path) -> None:
    printed = serve.render("http://127.0.0.1:8000", log, "m", is_open=False)
    assert '-H "Authorization: Bearer $AIHUB_API_KEY"' in printed
    assert "anyone" not in printed


@pytest.mark.parametrize("has_key", [False, True])
def test_banner_asks_the_hub_itself_whether_it_is_open(has_key: bool) -> None:
    keys = {ApiKey.generate().text: Principal(key_id="key_00000000", user_id="user_1")} if has_key else {}
    server = LiveServer(Parts(authenticator=FakeAuthenticator(keys)))
    server.start()
    try:
        assert serve._is_open(server.url) is not has_key
    finally:
        server.stop()


def test_hub_that_does_not_answer_is_not_called_open() -> None:
    assert serve._is_open(f"http://127.0.0.1:{free_port()}") is False
