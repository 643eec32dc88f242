"""Images, recordings, videos and files of a chat request, read for the engine: prepared images, and text for all else.

Nothing is decoded before it is known that the model can take what comes of it.
"""

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from aihub.chat.messages import UserMessage
from aihub.chat.routing import AUTO
from aihub.chat.schemas import ChatCompletionRequest
from aihub.chat.service import OWNER, ChatEngine, ChatModelInfo, hold, model_info_for
from aihub.core.errors import InvalidRequestError, OverloadedError
from aihub.core.limits import MAX_TEXT_CHARS, MAX_VIDEO_FRAMES
from aihub.core.principal import Principal
from pipelines.media_readers import MediaReaders, PartTask
from pipelines.media_sources import ByteBudget, TextBudget

MAX_REQUESTS = 8
"""Requests whose media are read at a time in one process; each holds as much as its limits allow."""

MAX_WAITING = 64
"""Requests beyond these that wait for their turn or for their model, and hold no bytes but what they were sent with."""

MAX_PARALLEL_PARTS = 4

ReadPart = Callable[[Principal, PartTask], Coroutine[Any, Any, None]]
FindEngine = Callable[[ChatCompletionRequest], Awaitable[ChatEngine]]


class MediaParts:
    """Makes requests with media ready for engines.

    Args:
        readers: What reads a part of each kind.
        models: The models that can be asked now, to name those that see.
    """

    def __init__(self, readers: MediaReaders, models: Callable[[Principal], Awaitable[Sequence[ChatModelInfo]]]) -> None:
        self._readers = readers
        self._models = models
        self._turns = asyncio.Semaphore(MAX_REQUESTS)
        self._requests = 0

    async def prepare(
        self, principal: Principal, request: ChatCompletionRequest, find: FindEngine
    ) -> tuple[ChatEngine, ChatCompletionRequest]:
        """Find the engine, and return it with the request as it takes it: parts of text and prepared images only.

        `auto` chooses by what is said in recordings and stands in documents, so these are read first then. The engine is held
        while media are read for it.

        Args:
            find: Finds the engine of a request; called once.

        Raises:
            InvalidRequestError: A part is wrong (`param` names it), the model reads no images (`model_reads_no_images`) or not so
                many (`too_many_images`), or the text is too much.
            OverloadedError: Too many requests wait for their media to be read.
            UnavailableError: A part that is needed is away, or no speech model is installed for a recording.
        """
        media = _Media(principal, request, self._tasks(request))
        with self._admitted():
            await self._read(principal, media, self._readers.classify, lambda task: task.kind is None)
            if request.model == AUTO:
                await self._require_any_sight(media)
                await self._read(principal, media, self._readers.read_text, lambda task: task.tells)
                engine = await find(media.current())
            else:
                await self._require_no_blind_model(request.model, media)
                engine = await find(request)
            await self._require_sight(engine, media)
            with hold(engine):
                await self._read(principal, media, self._finish, lambda task: task.shows or task.texts is None)
            return engine, media.current()

    def _tasks(self, request: ChatCompletionRequest) -> list[PartTask]:
        said = "\n".join(message.question for message in request.messages if isinstance(message, UserMessage))
        budget, text_budget = ByteBudget(), TextBudget(MAX_TEXT_CHARS - request.text_chars)
        tasks = [
            PartTask(part, number, position, said, request.retrieval is not None, budget, text_budget)
            for number, message in enumerate(request.messages)
            if isinstance(message, UserMessage)
            for position, part in message.media.items()
        ]
        for task in tasks:
            self._readers.sources.require_readable(task.part, task.param)
        return tasks

    async def _finish(self, principal: Principal, task: PartTask) -> None:
        """Read what is not read yet."""
        if task.tells and task.texts is None:
            await self._readers.read_text(principal, task)
        if task.shows:
            await self._readers.read_images(principal, task)

    async def _read(self, principal: Principal, media: "_Media", read: ReadPart, needs: Callable[[PartTask], bool]) -> None:
        async def one(task: PartTask) -> None:
            try:
                await read(principal, task)
            finally:
                # Whoever waits, for the next turn or for a model to be loaded, holds no bytes: they are read again.
                task.file = None

        tasks = [task for task in media.tasks if needs(task)]
        if tasks:
            async with self._turns:
                await _all_or_none([one(task) for task in tasks])
            media.current().require_bounded_text()

    async def _require_sight(self, engine: ChatEngine, media: "_Media") -> None:
        """Refuse what the model cannot take, and share out its images among the videos."""
        images, videos = media.count("image"), media.count("video")
        if not images + videos:
            return
        model_info = await model_info_for(engine, images + videos)
        if not model_info.max_images:
            raise await self._blind(f"The model {model_info.model_id!r} reads no images.", media)
        if images + videos > model_info.max_images:
            raise InvalidRequestError(
                f"The messages hold {images} images and {videos} videos. The model {model_info.model_id!r} reads at most "
                f"{model_info.max_images} images in one request, and a video is at least one. Send fewer.",
                param="messages",
                code="too_many_images",
            )
        for task in media.tasks:
            if task.kind == "video":
                task.max_frames = min(MAX_VIDEO_FRAMES, (model_info.max_images - images) // videos)

    async def _require_any_sight(self, media: "_Media") -> None:
        if media.first_shown is not None and not await self._seeing(media.principal):
            raise await self._blind("No model here reads images.", media)

    async def _require_no_blind_model(self, model_id: str, media: "_Media") -> None:
        """Refuse images for a local model that is known to read none, instead of loading it first."""
        if media.first_shown is not None and any(
            model_info.model_id == model_id and model_info.owned_by == OWNER and not model_info.max_images
            for model_info in await self._models(media.principal)
        ):
            raise await self._blind(f"The model {model_id!r} reads no images.", media)

    async def _blind(self, reason: str, media: "_Media") -> InvalidRequestError:
        return InvalidRequestError(
            f"{reason} {await self._advice(media.principal)}", param=media.first_shown, code="model_reads_no_images"
        )

    async def _seeing(self, principal: Principal) -> list[str]:
        return [model_info.model_id for model_info in await self._models(principal) if model_info.max_images]

    async def _advice(self, principal: Principal) -> str:
        seeing = await self._seeing(principal)
        if seeing:
            return f"These do: {', '.join(seeing)}; 'auto' chooses one."
        return (
            "None that does is installed: `aihub models recommended` names one that fits this machine, and "
            "`aihub models download --models <key>` installs it; or configure a provider that has one."
        )

    @contextmanager
    def _admitted(self) -> Iterator[None]:
        """Count a request until its media are read, so that none is refused once a model was loaded for it."""
        if self._requests >= MAX_REQUESTS + MAX_WAITING:
            raise OverloadedError("Too many requests with images, recordings or files wait to be read. Retry in a second.")
        self._requests += 1
        try:
            yield
        finally:
            self._requests -= 1


@dataclass(slots=True)
class _Media:
    """A request and what has become of its parts so far."""

    principal: Principal
    request: ChatCompletionRequest
    tasks: list[PartTask] = field(default_factory=list)

    def count(self, kind: str) -> int:
        return sum(task.kind == kind for task in self.tasks)

    @property
    def first_shown(self) -> str | None:
        """The field of the first part that a model must see."""
        return next((task.param for task in self.tasks if task.shows), None)

    def current(self) -> ChatCompletionRequest:
        """The request with what is read by now in place of its parts."""
        ready: dict[int, dict[int, PartTask]] = defaultdict(dict)
        for task in self.tasks:
            ready[task.message][task.position] = task
        messages = list(self.request.messages)
        for number, tasks in ready.items():
            message = messages[number]
            assert isinstance(message, UserMessage)  # noqa: S101  # only those have tasks
            parts = enumerate(message.parts)
            messages[number] = message.with_parts(
                [new for position, part in parts for new in (tasks[position].ready() if position in tasks else [part])]
            )
        return self.request.model_copy(update={"messages": messages})


async def _all_or_none(work: list[Coroutine[Any, Any, None]]) -> None:
    """Run a few at a time; when one fails, end the others and raise its error."""
    gate = asyncio.Semaphore(MAX_PARALLEL_PARTS)

    async def one(coroutine: Coroutine[Any, Any, None]) -> None:
        async with gate:
            await coroutine

    tasks = [asyncio.ensure_future(one(coroutine)) for coroutine in work]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for coroutine in work:
            coroutine.close()
