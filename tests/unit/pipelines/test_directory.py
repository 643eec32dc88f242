from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

import pytest
from pydantic import SecretStr

from aihub.chat.fake import FakeChatEngine
from aihub.chat.history import EngineHistory
from aihub.chat.providers.connection import ProviderMetrics
from aihub.chat.providers.failures import ProviderNotConfiguredError, ProviderUnavailableError
from aihub.chat.providers.pool import ProviderPool
from aihub.chat.providers.resilience import RetryPolicy
from aihub.chat.providers.settings import ProviderSettings, load_known_providers
from aihub.chat.routing import ModelCandidate, Router
from aihub.chat.routing_rules import load_routing_rules
from aihub.chat.service import ChatEngine, ChatModelInfo
from aihub.core.errors import ModelUnavailableError, NotFoundError, PermissionDeniedError
from aihub.core.logging import response_headers
from aihub.core.principal import Principal
from pipelines.chat import model_not_found
from pipelines.directory import ProviderDirectory
from pipelines.load_wait import LoadWait

KNOWN = load_known_providers()
BODY: dict[str, Any] = {"messages": [{"role": "user", "content": "Xin chào"}]}
DEAD = "http://127.0.0.1:9"


class Local:
    """Local models by name; `unavailable` are known but not loaded."""

    def __init__(self, *names: str) -> None:
        self.engines = {name: FakeChatEngine(name) for name in names}
        self.unavailable: set[str] = set()

    async def resolve(
        self, principal: Principal, model_id: str, body: Mapping[str, Any] | None = None, *, wait: LoadWait | None = None
    ) -> ChatEngine:
        if model_id in self.unavailable:
            raise ModelUnavailableError(f"{model_id} is not loaded")
        if model_id not in self.engines:
            raise model_not_found(model_id, self.engines)
        return self.engines[model_id]

    async def require(self, principal: Principal, model_id: str) -> None:
        if model_id not in self.unavailable | self.engines.keys():
            raise model_not_found(model_id, self.engines)

    async def list(self, principal: Principal) -> list[ChatModelInfo]:
        return [await engine.model_info() for engine in self.engines.values()]

    async def candidates(self) -> Sequence[ModelCandidate]:
        return [ModelCandidate(name, frozenset({"chat"}), frozenset({"en", "vi"}), "loaded", 4096) for name in self.engines]


@pytest.fixture
def local() -> Local:
    return Local("smollm2", "openai/gpt-oss-20b")


@pytest.fixture
async def pool() -> AsyncIterator[ProviderPool]:
    pool = ProviderPool(ProviderSettings(), KNOWN, ProviderMetrics(), policy=RetryPolicy(base_delay_s=0.01))
    yield pool
    await pool.close()


@pytest.fixture
def directory(local: Local, pool: ProviderPool) -> ProviderDirectory:
    history = EngineHistory()
    router = Router(load_routing_rules(), history)
    return ProviderDirectory(
        local=local, local_candidates=local.candidates, pool=pool, known=KNOWN, router=router, history=history
    )


async def resolved(directory: ProviderDirectory, model_id: str) -> str:
    return (await (await directory.resolve(Principal(), model_id)).model_info()).model_id


@pytest.mark.parametrize(
    ("model_id", "answering"),
    [
        ("smollm2", "smollm2"),
        ("local/smollm2", "smollm2"),
        ("openai/gpt-oss-20b", "openai/gpt-oss-20b"),
        ("openai/gpt-4o-mini", "openai/gpt-4o-mini"),
        ("openai/ft:gpt-4o-mini:shop", "openai/ft:gpt-4o-mini:shop"),
        ("ollama/gemma2:9b", "ollama/gemma2:9b"),
        ("auto", "smollm2"),
    ],
)
async def test_name_leads_to_its_engine(directory: ProviderDirectory, pool: ProviderPool, model_id: str, answering: str) -> None:
    pool.configure(ProviderSettings(openai_api_key=SecretStr("k"), ollama_url=DEAD, preferred_model="smollm2"))
    assert await resolved(directory, model_id) == answering


async def test_bare_name_nobody_has_here_goes_to_the_default_provider(directory: ProviderDirectory, pool: ProviderPool) -> None:
    with pytest.raises(NotFoundError, match="smollm2"):
        await directory.resolve(Principal(), "gpt-4o-mini")
    pool.configure(ProviderSettings(openai_api_key=SecretStr("k"), default_provider="openai"))
    assert await resolved(directory, "gpt-4o-mini") == "openai/gpt-4o-mini"
    assert await resolved(directory, "smollm2") == "smollm2"


@pytest.mark.parametrize("model_id", ["auto", "smollm2", "local/smollm2", "away", "openai/gpt-4o-mini", "openai/gpt-oss-20b"])
async def test_model_that_can_be_asked_for_is_found_without_being_loaded(
    directory: ProviderDirectory, local: Local, pool: ProviderPool, model_id: str
) -> None:
    local.unavailable.add("away")
    pool.configure(ProviderSettings(openai_api_key=SecretStr("k")))
    await directory.require(Principal(), model_id)


@pytest.mark.parametrize("model_id", ["nobody", "local/nobody"])
async def test_name_that_nobody_has_is_found_missing_as_when_it_is_asked(directory: ProviderDirectory, model_id: str) -> None:
    with pytest.raises(NotFoundError) as asked:
        await directory.resolve(Principal(), model_id)
    with pytest.raises(NotFoundError) as required:
        await directory.require(Principal(), model_id)
    assert required.value.message == asked.value.message


async def test_server_beside_the_hub_has_what_the_hub_has_not(directory: ProviderDirectory, pool: ProviderPool) -> None:
    pool.configure(ProviderSettings(local_api_url=f"{DEAD}/v1"))
    assert await resolved(directory, "llama-7b") == "local/llama-7b"
    assert await resolved(directory, "local/llama-7b") == "local/llama-7b"


async def test_prefix_of_a_provider_that_is_not_configured_says_so(directory: ProviderDirectory) -> None:
    with pytest.raises(ProviderNotConfiguredError, match="OPENAI_API_KEY"):
        await directory.resolve(Principal(), "openai/gpt-4o-mini")


async def test_model_that_is_not_loaded_is_answered_for_by_the_next_in_order(
    directory: ProviderDirectory, pool: ProviderPool, local: Local
) -> None:
    """Remote first, then local; both by the same setting."""
    pool.configure(ProviderSettings(ollama_url=DEAD, fallback_order=("ollama", "local")))
    engine = await directory.resolve(Principal(), "ollama/gemma2:9b")
    answer = await engine.chat(BODY)
    assert answer["model"] == "smollm2"
    assert [failed["model"] for failed in answer["aihub"]["fallback_from"]] == ["ollama/gemma2:9b"]


async def test_all_in_the_order_are_tried_before_giving_up(
    directory: ProviderDirectory, pool: ProviderPool, local: Local
) -> None:
    pool.configure(ProviderSettings(ollama_url=DEAD, fallback_order=("local", "openai", "ollama")))
    local.unavailable.add("smollm2")
    with pytest.raises(ProviderUnavailableError, match="ollama"):
        await (await directory.resolve(Principal(), "smollm2")).chat(BODY)


async def test_unknown_model_is_not_found_also_with_fallbacks(directory: ProviderDirectory, pool: ProviderPool) -> None:
    pool.configure(ProviderSettings(ollama_url=DEAD, fallback_order=("ollama",)))
    with pytest.raises(NotFoundError):
        await directory.resolve(Principal(), "không-có")


async def test_list_holds_local_and_remote_models(directory: ProviderDirectory, pool: ProviderPool) -> None:
    pool.configure(ProviderSettings(openai_api_key=SecretStr("k"), ollama_url=DEAD))
    names = [model_info.model_id for model_info in await directory.list(Principal())]
    assert names[:2] == ["smollm2", "openai/gpt-oss-20b"]
    assert "openai/gpt-4o-mini" in names


@pytest.mark.parametrize(
    ("favourite", "configured", "chosen"),
    [
        ("second", "first", "second"),
        (None, "first", "first"),
        (None, "second", "second"),
        ("deleted since", "second", "second"),
    ],
)
async def test_callers_favourite_counts_before_the_configured_model(
    pool: ProviderPool, favourite: str | None, configured: str, chosen: str
) -> None:
    async def favourite_of(principal: Principal) -> str | None:
        return favourite if principal.user_id == "user_linh" else "first"

    local, history = Local("first", "second"), EngineHistory()
    pool.configure(ProviderSettings(preferred_model=configured))
    directory = ProviderDirectory(
        local=local,
        local_candidates=local.candidates,
        pool=pool,
        known=KNOWN,
        router=Router(load_routing_rules(), history),
        history=history,
        favourite=favourite_of,
    )
    assert (await directory.decide(Principal(user_id="user_linh"), BODY)).model_id == chosen
    assert (await directory.decide(Principal(user_id="user_linh", models=frozenset({"first"})), BODY)).model_id == "first"
    assert (await directory.decide(Principal(user_id="user_minh"), BODY)).model_id == "first"


@pytest.mark.parametrize("model_id", ["smollm2", "openai/gpt-oss-20b", "openai/gpt-4o-mini"])
async def test_model_that_auto_chooses_from_may_be_a_favourite(
    directory: ProviderDirectory, pool: ProviderPool, model_id: str
) -> None:
    pool.configure(ProviderSettings(openai_api_key=SecretStr("k")))
    await directory.require_choice(Principal(), model_id)
    await directory.require_choice(Principal(models=frozenset({model_id})), model_id)
    with pytest.raises(PermissionDeniedError) as caught:
        await directory.require_choice(Principal(models=frozenset({"another"})), model_id)
    assert caught.value.code == "model_not_allowed"


@pytest.mark.parametrize("model_id", ["gone", "auto", "openai/made-up", "local/smollm2", "mô hình lạ"])
async def test_model_that_auto_never_chooses_is_no_favourite_and_the_others_are_named(
    directory: ProviderDirectory, pool: ProviderPool, model_id: str
) -> None:
    pool.configure(ProviderSettings(openai_api_key=SecretStr("k")))
    with pytest.raises(NotFoundError) as caught:
        await directory.require_choice(Principal(), model_id)
    assert caught.value.code == "model_not_found"
    assert "smollm2" in caught.value.message


async def test_favourite_is_not_refused_while_the_models_are_not_known_yet(directory: ProviderDirectory, local: Local) -> None:
    async def require(principal: Principal, model_id: str) -> None:
        raise ModelUnavailableError("The hub is starting.")

    local.engines.clear()
    local.require = require  # type: ignore[method-assign]  # the directory of a hub that starts
    with pytest.raises(ModelUnavailableError):
        await directory.require_choice(Principal(), "smollm2")


async def test_automatic_choice_comes_back_in_headers(directory: ProviderDirectory) -> None:
    notes: dict[str, str] = {}
    token = response_headers.set(notes)
    await directory.resolve(Principal(), "auto", BODY)
    response_headers.reset(token)
    assert notes["x-aihub-model"] in {"smollm2", "openai/gpt-oss-20b"}
    assert notes["x-aihub-route-reasons"].startswith("task chat; language vi")


async def test_remote_model_is_answered_while_the_model_manager_is_away(
    directory: ProviderDirectory, pool: ProviderPool, local: Local
) -> None:
    pool.configure(ProviderSettings(openai_api_key=SecretStr("k"), ollama_url=DEAD))
    local.unavailable |= {"openai/gpt-4o-mini", "ollama/gemma2:9b"}  # whatever is asked, it answers 503
    assert await resolved(directory, "openai/gpt-4o-mini") == "openai/gpt-4o-mini"
    assert await resolved(directory, "ollama/gemma2:9b") == "ollama/gemma2:9b"
