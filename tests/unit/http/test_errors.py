import httpx
import pytest
from fastapi import FastAPI

from aihub.core.errors import ConfigurationError, HubError, InternalError, OverloadedError, PayloadTooLargeError, RateLimitError
from aihub.http.errors import error_response, public_error
from tests.unit.conftest import assert_refused


@pytest.mark.parametrize(
    ("path", "param"),
    [
        ("/v1/files?limit=0", "limit"),
        ("/v1/files?limit=many", "limit"),
        ("/v1/files?order=sideways", "order"),
        ("/v1/vector_stores?limit=101", "limit"),
        ("/v1/vector_stores?after=../x", "after"),
    ],
)
async def test_wrong_query_parameter_is_named(client: httpx.AsyncClient, path: str, param: str) -> None:
    error = assert_refused(await client.get(path), 400, param=param)
    assert error["message"].startswith(f"'{param}' must ")


@pytest.mark.parametrize("error", [RateLimitError("Slow down."), OverloadedError("Busy.", retry_after_s=7)])
def test_error_worth_a_retry_says_when(error: HubError) -> None:
    response = error_response(error)
    assert response.status_code == error.status
    assert response.headers["retry-after"] == str(error.retry_after_s)


def test_refusal_of_an_unread_body_closes_the_connection() -> None:
    assert error_response(PayloadTooLargeError("Too large.")).headers["connection"] == "close"


@pytest.mark.parametrize(
    "error", [RuntimeError("secret"), InternalError("secret"), ConfigurationError("secret"), KeyError("secret")]
)
def test_bug_shows_no_detail(error: Exception) -> None:
    shown = public_error(error)
    assert shown.status == 500
    assert "secret" not in shown.message


async def test_every_kind_of_failure_has_the_same_shape(client: httpx.AsyncClient, app: FastAPI) -> None:
    assert_refused(await client.get("/nothing"), 404, code="unknown_url")
    assert_refused(await client.delete("/v1/models"), 405)
    assert_refused(await client.post("/v1/completions", content=b"x", headers={"content-type": "text/plain"}), 415)
    assert_refused(await client.post("/v1/completions", json={}), 400, code="missing_required_parameter")
