"""Protocols over connections: what is called, with what, and that deployments have all of it."""

import asyncio
import inspect
from collections.abc import AsyncGenerator
from typing import Any, Protocol

import pytest

from aihub.chat.service import ChatEngine
from aihub.core.errors import ModelUnavailableError
from aihub.embeddings.service import Embedder
from aihub.models.service import LifecycleService, ModelManager, RegistryService
from aihub.recsys.service import TrainingService
from deployments.embeddings import EmbeddingsDeployment
from deployments.llm import LLMDeployment
from deployments.models import REGISTRY, Models
from deployments.recsys import Recsys
from deployments.service_client import methods_of, offers, service_client


class Reader(Protocol):
    async def title(self) -> str: ...


class Shelf(Reader, Protocol):
    async def find(self, name: str, *, most: int = 1) -> list[str]: ...

    def pages(self, name: str) -> AsyncGenerator[str, None]: ...


class Books:
    """A shelf."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.error: Exception | None = None
        self.is_closed = False

    async def title(self) -> str:
        self.asked.append("title")
        await asyncio.sleep(0.01)
        if self.error is not None:
            raise self.error
        return "Số đỏ"

    async def find(self, name: str, *, most: int = 1) -> list[str]:
        return [name] * most

    async def pages(self, name: str) -> AsyncGenerator[str, None]:
        try:
            for number in range(3):
                yield f"{name} {number}"
        finally:
            self.is_closed = True


@offers(Shelf, "_books", prefix="shelf_")
class Library:
    def __init__(self, books: Books) -> None:
        self._books = books

    async def shelf_title(self) -> str:
        return await self._books.title() + "!"


class Connection:
    """Calls a deployment in this process."""

    def __init__(self, deployment: Any) -> None:
        self._deployment = deployment

    async def call(self, name: str, *args: Any, **options: Any) -> Any:
        return await getattr(self._deployment, name)(*args, **options)

    def stream(self, name: str, *args: Any, **options: Any) -> AsyncGenerator[Any, None]:
        stream: AsyncGenerator[Any, None] = getattr(self._deployment, name)(*args, **options)
        return stream


def client(books: Books, **options: Any) -> Shelf:
    connection: Any = Connection(Library(books))
    return service_client(Shelf, connection, prefix="shelf_", **options)


async def test_client_and_deployment_pass_arguments_answers_and_streams() -> None:
    shelf = client(Books())
    assert await shelf.find("Truyện Kiều", most=2) == ["Truyện Kiều"] * 2
    assert [page async for page in shelf.pages("Kiều")] == ["Kiều 0", "Kiều 1", "Kiều 2"]


async def test_deployments_own_method_is_kept() -> None:
    assert await client(Books()).title() == "Số đỏ!"


async def test_stream_that_is_closed_closes_the_one_behind_it() -> None:
    books = Books()
    pages = client(books).pages("Kiều")
    await anext(pages)
    assert not books.is_closed
    await pages.aclose()
    assert books.is_closed


async def test_answer_that_stays_is_asked_for_once_by_all_who_ask_at_a_time() -> None:
    books = Books()
    shelf = client(books, once={"title"})
    assert set(await asyncio.gather(*(shelf.title() for _ in range(20)))) == {"Số đỏ!"}
    assert await shelf.title() == "Số đỏ!"
    assert books.asked == ["title"]


async def test_failure_of_an_answer_that_stays_is_not_kept() -> None:
    books = Books()
    books.error = ModelUnavailableError("starting")
    shelf = client(books, once={"title"})
    with pytest.raises(ModelUnavailableError):
        await shelf.title()
    books.error = None
    assert await shelf.title() == "Số đỏ!"


async def test_first_who_asks_and_leaves_does_not_keep_the_next_from_the_answer() -> None:
    shelf = client(Books(), once={"title"})
    first = asyncio.create_task(shelf.title())
    second = asyncio.create_task(shelf.title())
    await asyncio.sleep(0)
    first.cancel()
    assert await asyncio.wait_for(second, 2) == "Số đỏ!"


async def test_local_method_never_reaches_the_application() -> None:
    async def find(name: str, *, most: int = 1) -> list[str]:
        return [name]

    assert await client(Books(), local={"find": find}).find("a", most=9) == ["a"]


@pytest.mark.parametrize(
    ("deployment", "protocol", "prefix"),
    [
        (LLMDeployment, ChatEngine, ""),
        (EmbeddingsDeployment, Embedder, ""),
        (Models, LifecycleService, ""),
        (Models, ModelManager, ""),
        (Models, RegistryService, REGISTRY),
        (Recsys, TrainingService, ""),
    ],
)
def test_deployment_has_every_method_that_its_client_calls(deployment: type, protocol: type, prefix: str) -> None:
    methods = dict(methods_of(protocol))
    assert methods
    for name, is_stream in methods.items():
        method = vars(deployment)[prefix + name]  # its own: a Protocol's has no body
        assert inspect.isasyncgenfunction(method) if is_stream else inspect.iscoroutinefunction(method), name
