"""Keys on the running hub, by every way in and on both applications. A first key closes a hub for good: this module is the last."""

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import openai
import psutil
import psycopg
import pytest
from websockets.exceptions import InvalidStatus

from aihub.core.embedded.stores import database_for
from aihub.core.errors import PermissionDeniedError
from aihub.core.principal import Principal
from aihub.core.settings import Settings
from deployments.client import HubClient
from tests.cluster import OWN_VARIABLES, ROOT, RunningHub, title
from tests.unit.speech.vosk_client import open_stream

LARGE_BYTES = 64 * 2**20
CLOSED_WITHIN_S = 5.0
TRENDING = {"store_id": 999}
WAYS = ("/v1/models", "/predict/trending")

pytestmark = pytest.mark.timeout(300)


@dataclass(frozen=True)
class Keys:
    """Whole keys; `speech` is an administrator's for speech alone."""

    admin: str
    user: str
    speech: str


def aihub(hub: RunningHub, *arguments: str, key: str | None = None) -> "subprocess.CompletedProcess[str]":
    """Run a command beside the hub, as its operator would."""
    environment = {name: value for name, value in os.environ.items() if name not in OWN_VARIABLES | {"AIHUB_API_KEY"}}
    environment |= {"AIHUB_HOME": str(hub.home), "AIHUB_URL": hub.url} | ({"AIHUB_API_KEY": key} if key else {})
    command = [str(Path(sys.executable).parent / "aihub"), *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120, check=False)


def make_key(hub: RunningHub, name: str, *options: str) -> str:
    done = aihub(hub, "keys", "create", "--name", name, *options)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def ask(hub: RunningHub, path: str, headers: Any = None) -> httpx.Response:
    """One of `WAYS`: a GET of the hub's application, or a POST of the recommender's."""
    method, body = ("POST", TRENDING) if path.startswith("/predict/") else ("GET", None)
    return httpx.request(method, hub.url + path, json=body, headers=headers, timeout=30)


def wait_until_all(hub: RunningHub, status: int, *, headers: Any = None) -> float:
    """Seconds until every way begins to answer with a status and nothing else, ten times in a row."""
    began_s = since_s = time.monotonic()
    in_a_row = 0
    while in_a_row < 10:
        asked_s = time.monotonic()
        assert asked_s < began_s + 20
        if all(ask(hub, path, headers).status_code == status for path in WAYS):
            since_s = since_s if in_a_row else asked_s
            in_a_row += 1
        else:
            in_a_row = 0
        time.sleep(0.05)
    return since_s - began_s


@pytest.fixture(scope="module")
def keys(hub: RunningHub) -> Keys:
    """Made on a hub that was open until now."""
    assert httpx.get(f"{hub.url}/v1/models").status_code == 200
    admin = make_key(hub, "admin")
    assert wait_until_all(hub, 401) < CLOSED_WITHIN_S + 1
    assert aihub(hub, "users", "create", "lan").returncode == 0
    return Keys(admin, make_key(hub, "user", "--user", "lan"), make_key(hub, "speech", "--routes", "/v1/audio"))


def error_of(answer: httpx.Response) -> tuple[int, str]:
    error = answer.json()["error"]
    assert list(error) == ["message", "type", "param", "code"]
    return answer.status_code, error["code"]


@pytest.mark.parametrize("path", [*WAYS, "/docs", "/openapi.json", "/metrics", "/nothing", "/v1/audio/stream"])
def test_without_a_key_nothing_answers(hub: RunningHub, keys: Keys, path: str) -> None:
    answer = ask(hub, path)
    assert error_of(answer) == (401, "missing_api_key")
    assert answer.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize("path", ["/health", "/health/live", "/health/ready", "/-/healthz"])
def test_health_stays_open(hub: RunningHub, keys: Keys, path: str) -> None:
    assert httpx.get(hub.url + path, timeout=30).status_code == 200


def test_serves_own_routes_are_told_nobody(hub: RunningHub, keys: Keys) -> None:
    assert error_of(httpx.get(f"{hub.url}/-/routes")) == (404, "unknown_url")


@pytest.mark.parametrize("odd", [{}, {"x-way": "é".encode()}], ids=["fast path", "through Serve"])
def test_each_way_into_the_hub_knows_the_keys(hub: RunningHub, keys: Keys, odd: dict[str, bytes]) -> None:
    assert ask(hub, "/v1/models", odd).status_code == 401
    assert ask(hub, "/predict/trending", odd).status_code == 401
    assert ask(hub, "/v1/models", odd | bearer(keys.user)).status_code == 200
    assert error_of(ask(hub, "/predict/trending", odd | bearer(keys.user))) == (404, "model_not_trained")
    assert error_of(ask(hub, "/metrics", odd | bearer(keys.user))) == (403, "admin_required")
    assert ask(hub, "/metrics", odd | bearer(keys.admin)).status_code == 200
    for path in WAYS:
        assert error_of(ask(hub, path, odd | bearer(keys.speech))) == (403, "route_not_allowed")
        assert error_of(ask(hub, path, odd | bearer(f"{keys.user[:-3]}xyz"))) == (401, "invalid_api_key")


@pytest.mark.parametrize(
    "headers",
    [
        {"X-API-Key": "{key}"},
        {"Cookie": "Authorization=Bearer {key}"},
        {"Authorization": "Basic {key}"},
        {"Authorization": "Bearer '{key}'"},
        [("Authorization", "Bearer {key}"), ("Authorization", "Bearer {key}")],
    ],
    ids=["header", "cookie", "scheme", "quotes", "twice"],
)
def test_key_in_a_wrong_place_opens_nothing(hub: RunningHub, keys: Keys, headers: Any) -> None:
    pairs = headers.items() if isinstance(headers, dict) else headers
    sent = [(name, value.format(key=keys.user)) for name, value in pairs]
    for path in WAYS:
        assert ask(hub, path, sent).status_code == 401
        assert ask(hub, f"{path}?api_key={keys.user}").status_code == 401


def test_key_with_sql_in_it_is_refused_at_once(hub: RunningHub, keys: Keys) -> None:
    for path in WAYS:
        began_s = time.monotonic()
        assert ask(hub, path, bearer(f"{keys.user[:15]}'; SELECT pg_sleep(10); --")).status_code == 401
        assert time.monotonic() - began_s < 2


def test_upload_without_a_key_is_refused_at_once(hub: RunningHub, keys: Keys) -> None:
    files = {"file": ("large.txt", b"x" * LARGE_BYTES)}
    began_s = time.monotonic()
    answer = httpx.post(f"{hub.url}/v1/files", files=files, data={"purpose": "assistants"}, timeout=30)
    assert error_of(answer) == (401, "missing_api_key")
    assert time.monotonic() - began_s < 10


async def test_websocket_needs_a_key_too(hub: RunningHub, keys: Keys) -> None:
    for headers, status in (({}, 401), (bearer("aihub_wrong"), 401)):
        with pytest.raises(InvalidStatus) as refused:
            await open_stream(hub.url, additional_headers=headers)
        assert refused.value.response.status_code == status
        assert json.loads(refused.value.response.body)["error"]["type"] == "authentication_error"
    async with open_stream(hub.url, additional_headers=bearer(keys.speech)) as connection:
        await connection.send("no json")
        assert json.loads(await connection.recv())["error"]["message"]


def test_openai_client_with_a_wrong_and_a_right_key(hub: RunningHub, keys: Keys) -> None:
    url = f"{hub.url}/v1"
    question: Any = {"model": hub.model, "messages": [{"role": "user", "content": "Say hello."}], "max_tokens": 5}
    with openai.OpenAI(base_url=url, api_key="sk-wrong", max_retries=0) as wrong, pytest.raises(openai.AuthenticationError):
        wrong.chat.completions.create(**question)
    with openai.OpenAI(base_url=url, api_key=keys.user, max_retries=2, timeout=120) as client:
        assert client.chat.completions.create(**question).choices[0].message.content
        assert list(client.chat.completions.create(**question, stream=True))
        with pytest.raises(openai.PermissionDeniedError):
            client.fine_tuning.jobs.create(model=hub.model, training_file="file-1")


def test_commands_need_the_key_too(hub: RunningHub, keys: Keys) -> None:
    without = aihub(hub, "models", "ps")
    assert (without.returncode, "set AIHUB_API_KEY" in without.stderr) == (1, True)
    refused = aihub(hub, "models", "unload", hub.model, key=keys.user)
    assert (refused.returncode, "may not do this" in refused.stderr) == (1, True)
    assert aihub(hub, "models", "ps", key=keys.user).returncode == 0


@pytest.mark.usefixtures("ray_cluster")
async def test_handles_have_the_rights_and_leave_rows(hub: RunningHub, keys: Keys) -> None:
    question = [{"role": "user", "content": "Say hello."}]
    caller = Principal(tenant_id="handles", role="user", key_id="key_handle00")
    client = HubClient(principal=caller)
    assert (await client.chat(question, max_tokens=4))["choices"]
    assert [text async for text in client.stream_chat(question, max_tokens=4)]
    assert (await client.embed(["Xin chào"]))[0]
    for refused in (client.unload_model(hub.model), client.start_training(hub.model, "file-1")):
        with pytest.raises(PermissionDeniedError, match="administrator"):
            await refused
    speech_only = HubClient(principal=Principal(tenant_id="handles", routes=frozenset({"/v1/audio"})))
    with pytest.raises(PermissionDeniedError, match="only for /v1/audio"):
        await speech_only.chat(question, max_tokens=4)
    assert (await HubClient().default_model()) == hub.model
    expected = {
        ("handle chat", "key_handle00", 200),
        ("handle stream_chat", "key_handle00", 200),
        ("handle embed", "key_handle00", 200),
        ("handle unload_model", "key_handle00", 403),
        ("handle chat", "", 403),
    }
    assert expected <= rows_of(hub, "handles", len(expected) + 1)


def test_requests_leave_rows_under_their_key(hub: RunningHub, keys: Keys) -> None:
    key_id = f"key_{keys.user[6:14]}"
    for path in WAYS:
        ask(hub, path, bearer(keys.user))
    expected = {("GET /v1/models", key_id, 200), ("POST /predict/trending", key_id, 404)}
    assert expected <= rows_of(hub, "default", len(expected))


def rows_of(hub: RunningHub, tenant: str, at_least: int) -> set[tuple[str, str, int]]:
    """Route, key and status of the rows of a tenant, once there are so many kinds."""
    query = "SELECT DISTINCT route, coalesce(key_id, ''), status FROM usage_records WHERE tenant_id = %s"
    ends_s = time.monotonic() + 10
    with database_for(Settings(home=hub.home)) as dsn, psycopg.connect(dsn, autocommit=True) as connection:
        while len(found := set(connection.execute(query, (tenant,)).fetchall())) < at_least and time.monotonic() < ends_s:
            time.sleep(0.2)
    return found


def test_secrets_are_in_no_log_and_no_list_of_processes(hub: RunningHub, keys: Keys) -> None:
    secrets = [key[15:].encode() for key in (keys.admin, keys.user, keys.speech)]
    logs = [path for path in hub.home.rglob("*.log") if path.is_file()]
    assert logs
    assert [path for path in logs if any(secret in path.read_bytes() for secret in secrets)] == []
    titles = [title(process).encode() for process in psutil.process_iter()]
    assert [text for text in titles if any(secret in text for secret in secrets)] == []


def test_revoked_key_dies_on_every_way_within_seconds(hub: RunningHub, keys: Keys) -> None:
    key = make_key(hub, "short-lived")
    assert ask(hub, "/v1/models", bearer(key)).status_code == 200
    assert ask(hub, "/predict/trending", bearer(key)).status_code == 404
    assert aihub(hub, "keys", "revoke", f"key_{key[6:14]}").returncode == 0
    assert wait_until_all(hub, 401, headers=bearer(key)) < CLOSED_WITHIN_S + 1
