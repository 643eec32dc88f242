"""The `hub` deployment: one FastAPI application and the pipelines behind it, also callable by handle."""

import asyncio
import logging
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import asdict
from typing import Any

from starlette.types import ASGIApp

from aihub.chat.schemas import ChatCompletionRequest
from aihub.core.logging import configure_logging
from aihub.core.principal import Principal
from aihub.core.profiles import Profile
from aihub.core.schemas import validate
from aihub.core.settings import Settings
from aihub.documents.schemas import FileFields
from aihub.finetuning.requests import from_openai
from aihub.finetuning.schemas import JobCreate
from aihub.http.app import create_app
from aihub.http.local_server import LocalServer
from aihub.http.services import Services
from aihub.models.memory.status import ModelStatus
from aihub.models.schemas import GenerationDefaults, UnloadRequest
from aihub.recsys.schemas import NextItemsRequest, RecommendationsRequest, TrendingRequest
from aihub.speech.service import AUTO_MODEL, RecognitionOptions
from deployments.cancellation import quiet_cancellations, quiet_refusals
from deployments.composition import Composition
from deployments.handle_calls import ADMINISTRATOR, answers, streams
from deployments.local_fast_path import HUB, socket_path
from pipelines.answer import GeneratedAnswer, generate_answer, question_body

logger = logging.getLogger("ray.serve")


class Ingress:
    """Holds the parts, serves HTTP through them, and offers the same calls to Python code on the cluster.

    The handle methods take and return plain JSON values, and whom they act for as the keyword `principal`;
    `deployments.client.HubClient` is their typed face.
    """

    async def __init__(  # type: ignore[misc]  # Serve awaits it
        self, settings: Settings, profile: Profile, model_id: str, tokenizer_path: str, *, is_local: bool
    ) -> None:
        configure_logging()
        quiet_cancellations()
        quiet_refusals()
        self._model_id = model_id
        self._server: LocalServer | None = None
        self._parts = Composition(settings, profile, model_id, tokenizer_path, is_local=is_local)
        await self._parts.start()
        if profile.hub.autoscaling.max_replicas == 1:  # several share their requests, and Serve decides how
            self._server = LocalServer(create_app(self._parts.services), socket_path(settings.home_path, HUB))
            await self._server.start()

    def __serve_build_asgi_app__(self) -> ASGIApp:
        return create_app(self._parts.services, sends_request_id=False)  # Ray Serve adds it

    @property
    def services(self) -> Services:
        """What the routes call."""
        return self._parts.services

    @answers("POST /v1/chat/completions")
    async def chat(self, body: dict[str, Any], *, principal: Principal = ADMINISTRATOR) -> dict[str, Any]:
        """Answer an OpenAI chat body with OpenAI's `chat.completion` object."""
        request = validate(ChatCompletionRequest, self._with_model(body) | {"stream": False})
        return await self._parts.handle_chat.chat(principal, request)

    @streams("POST /v1/chat/completions")
    async def stream_chat(self, body: dict[str, Any], *, principal: Principal = ADMINISTRATOR) -> AsyncGenerator[str, None]:
        """Yield the server-sent event text of an OpenAI chat body; comments while its model is loaded."""
        async with aclosing(self._stream(principal, body)) as frames:
            async for frame in frames:
                yield frame

    @answers("POST /v1/embeddings")
    async def embed(self, inputs: list[str], *, principal: Principal = ADMINISTRATOR) -> list[list[float]]:
        """Return one vector of norm 1 per text."""
        embeddings = await self._parts.services.embedder.embed(inputs)
        vectors: list[list[float]] = embeddings.vectors.tolist()
        return vectors

    @answers("POST /v1/chat/completions")
    async def generate_answer(
        self,
        question: str,
        context: str | None = None,
        max_tokens: int = 256,
        temperature: float = 0.2,
        *,
        principal: Principal = ADMINISTRATOR,
    ) -> GeneratedAnswer:
        """Answer `question`, from `context` alone when it is given."""
        chat, prompts = self._parts.handle_chat, self._parts.prompts
        return await generate_answer(
            chat, principal, self._model_id, prompts, question, context, max_tokens=max_tokens, temperature=temperature
        )

    @streams("POST /v1/chat/completions")
    async def stream_answer(
        self,
        question: str,
        context: str | None = None,
        max_tokens: int = 256,
        temperature: float = 0.2,
        *,
        principal: Principal = ADMINISTRATOR,
    ) -> AsyncGenerator[str, None]:
        """Yield the server-sent event text of an answer to `question`, from `context` alone when it is given."""
        body = question_body(self._parts.prompts, question, context, max_tokens=max_tokens, temperature=temperature)
        async with aclosing(self._stream(principal, body)) as frames:
            async for frame in frames:
                yield frame

    @answers("GET /v1/models")
    async def default_model(self, *, principal: Principal = ADMINISTRATOR) -> str:
        """Return the id of the model that answers where none is named."""
        return self._model_id

    @answers("GET /v1/models")
    async def models(self, *, principal: Principal = ADMINISTRATOR) -> list[dict[str, Any]]:
        """List the chat models that can be asked, as OpenAI model objects."""
        return await self._parts.services.chat.models(principal)

    @answers("POST /api/v1/models/load")
    async def load_model(self, model_id: str, force_reload: bool = False, *, principal: Principal = ADMINISTRATOR) -> ModelStatus:
        """Load a local model and return once it is ready."""
        return await self._parts.services.lifecycle.load(model_id, force_reload=force_reload)

    @answers("POST /api/v1/models/unload")
    async def unload_model(self, model_id: str, level: str = "sleep", *, principal: Principal = ADMINISTRATOR) -> ModelStatus:
        """Unload a local model and return once its memory is back; `full` ends one that could sleep."""
        request = validate(UnloadRequest, {"model_id": model_id, "level": level})
        return await self._parts.services.lifecycle.unload(request.model_id, level=request.level)

    @answers("GET /api/v1/models/info")
    async def get_model_info(self, model_id: str, *, principal: Principal = ADMINISTRATOR) -> dict[str, Any]:
        """Return device, memory, quantisation, context and generation defaults of a loaded model."""
        return (await self._parts.services.lifecycle.info(model_id)).model_dump(mode="json")

    @answers("POST /api/v1/models/generation_config")
    async def update_generation_config(
        self, model_id: str, changes: dict[str, Any], *, principal: Principal = ADMINISTRATOR
    ) -> dict[str, Any]:
        """Change the generation defaults of a loaded model and return those in force."""
        defaults = validate(GenerationDefaults, changes)
        lifecycle = self._parts.services.lifecycle
        return (await lifecycle.update_generation_config(model_id, defaults)).model_dump(exclude_none=True)

    @answers("POST /api/v1/models/clear_cache")
    async def clear_cache(self, model_id: str, *, principal: Principal = ADMINISTRATOR) -> bool:
        """Forget the cached prompts of a loaded model; False when requests in flight still hold some."""
        return await self._parts.services.lifecycle.clear_cache(model_id)

    @answers("POST /predict/recommendations")
    async def recommend(
        self, store_id: int, user_id: int, n: int = 10, *, principal: Principal = ADMINISTRATOR
    ) -> dict[str, Any]:
        """Return what `POST /predict/recommendations` answers."""
        request = validate(RecommendationsRequest, {"store_id": store_id, "user_id": user_id, "n": n})
        return (await self._parts.recsys.recommendations(principal, request)).model_dump(mode="json")

    @answers("POST /predict/trending")
    async def trending(self, store_id: int, n: int = 10, *, principal: Principal = ADMINISTRATOR) -> dict[str, Any]:
        """Return what `POST /predict/trending` answers."""
        request = validate(TrendingRequest, {"store_id": store_id, "n": n})
        return (await self._parts.recsys.trending(principal, request)).model_dump(mode="json")

    @answers("POST /predict/next-items")
    async def next_items(
        self, store_id: int, item_history: list[int], top_k: int = 10, *, principal: Principal = ADMINISTRATOR
    ) -> dict[str, Any]:
        """Return what `POST /predict/next-items` answers."""
        request = validate(NextItemsRequest, {"store_id": store_id, "item_history": item_history, "top_k": top_k})
        return (await self._parts.recsys.next_items(principal, request)).model_dump(mode="json")

    @answers("POST /v1/audio/transcriptions")
    async def transcribe(
        self,
        audio: bytes,
        model: str = AUTO_MODEL,
        language: str | None = None,
        phrases: list[str] | None = None,
        *,
        principal: Principal = ADMINISTRATOR,
    ) -> dict[str, Any]:
        """Return what is said in an audio file: text, language, duration, segments and words with times."""
        options = RecognitionOptions(model, language, tuple(phrases or ()))
        transcript = await self._parts.services.speech.transcribe(principal, audio, options)
        return {"text": transcript.text} | asdict(transcript)

    @answers("POST /v1/files")
    async def upload_file(
        self, filename: str, content: bytes, purpose: str, *, principal: Principal = ADMINISTRATOR
    ) -> dict[str, Any]:
        """Store a file and return OpenAI's `file` object."""
        fields = validate(FileFields, {"purpose": purpose})

        async def pieces() -> AsyncGenerator[bytes, None]:
            yield content

        files = self._parts.services.files
        file = await files.upload(principal, filename=filename, purpose=fields.purpose, content=pieces())
        return file.model_dump(mode="json")

    @answers("POST /v1/fine_tuning/jobs")
    async def start_training(
        self, body: dict[str, Any], idempotency_key: str | None = None, *, principal: Principal = ADMINISTRATOR
    ) -> dict[str, Any]:
        """Take a body of `POST /v1/fine_tuning/jobs` and return its job."""
        request = from_openai(validate(JobCreate, body))
        job = await self._parts.services.finetuning.create(principal, request, idempotency_key)
        return job.model_dump(mode="json")

    @answers("GET /v1/fine_tuning/jobs/{job_id}")
    async def training(self, job_id: str, *, principal: Principal = ADMINISTRATOR) -> dict[str, Any]:
        """Return a training as it is now."""
        return (await self._parts.services.finetuning.get(principal, job_id)).model_dump(mode="json")

    @answers("POST /v1/fine_tuning/jobs/{job_id}/cancel")
    async def cancel_training(self, job_id: str, *, principal: Principal = ADMINISTRATOR) -> dict[str, Any]:
        """Stop a training for good and return it."""
        return (await self._parts.services.finetuning.cancel(principal, job_id)).model_dump(mode="json")

    async def check_health(self) -> None:
        """Raise when the ingest worker has ended, so that Serve replaces this replica; outages of parts do not count."""
        self._parts.check()

    async def __del__(self) -> None:
        if self._server is not None:
            await self._server.close()
        await asyncio.shield(self._parts.close())

    async def _stream(self, principal: Principal, body: dict[str, Any]) -> AsyncGenerator[str, None]:
        request = validate(ChatCompletionRequest, self._with_model(body) | {"stream": True})
        async with aclosing(await self._parts.handle_chat.open_chat_stream(principal, request)) as frames:
            async for frame in frames:
                yield frame

    def _with_model(self, body: dict[str, Any]) -> dict[str, Any]:
        return {"model": self._model_id} | body
