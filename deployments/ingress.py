"""The `hub` deployment: one FastAPI application and the pipelines behind it, also callable by handle."""

import asyncio
import logging
from collections.abc import AsyncGenerator
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
from aihub.models.memory.status import ModelStatus
from aihub.models.schemas import GenerationDefaults, UnloadRequest
from aihub.recsys.schemas import NextItemsRequest, RecommendationsRequest, TrendingRequest
from aihub.speech.service import AUTO_MODEL, RecognitionOptions
from deployments.cancellation import quiet_cancellations
from deployments.composition import Composition
from deployments.local_fast_path import HUB, socket_path
from pipelines.answer import GeneratedAnswer, generate_answer, question_body

logger = logging.getLogger("ray.serve")


class Ingress:
    """Holds the parts, serves HTTP through them, and offers the same calls to Python code on the cluster.

    The handle methods take and return plain JSON values; `deployments.client.HubClient` is their typed face.
    """

    async def __init__(  # type: ignore[misc]  # Serve awaits it
        self, settings: Settings, profile: Profile, model_id: str, tokenizer_path: str, *, is_local: bool
    ) -> None:
        configure_logging()
        quiet_cancellations()
        self._model_id = model_id
        self._server: LocalServer | None = None
        self._parts = Composition(settings, profile, model_id, tokenizer_path, is_local=is_local)
        await self._parts.start()
        if profile.hub.autoscaling.max_replicas == 1:  # several share their requests, and Serve decides how
            self._server = LocalServer(create_app(self._parts.services), socket_path(settings.home_path, HUB))
            await self._server.start()

    def __serve_build_asgi_app__(self) -> ASGIApp:
        return create_app(self._parts.services, sends_request_id=False)  # Ray Serve adds it

    async def chat(self, body: dict[str, Any]) -> dict[str, Any]:
        """Answer an OpenAI chat body with OpenAI's `chat.completion` object."""
        request = validate(ChatCompletionRequest, self._with_model(body) | {"stream": False})
        return await self._parts.handle_chat.chat(Principal(), request)

    async def stream_chat(self, body: dict[str, Any]) -> AsyncGenerator[str, None]:
        """Yield the server-sent event text of an OpenAI chat body; comments while its model is loaded."""
        request = validate(ChatCompletionRequest, self._with_model(body) | {"stream": True})
        stream = await self._parts.handle_chat.open_chat_stream(Principal(), request)
        try:
            async for frame in stream:
                yield frame
        finally:
            await stream.aclose()

    async def embed(self, inputs: list[str]) -> list[list[float]]:
        """Return one vector of norm 1 per text."""
        embeddings = await self._parts.services.embedder.embed(inputs)
        vectors: list[list[float]] = embeddings.vectors.tolist()
        return vectors

    async def generate_answer(
        self, question: str, context: str | None = None, max_tokens: int = 256, temperature: float = 0.2
    ) -> GeneratedAnswer:
        """Answer `question`, from `context` alone when it is given."""
        engine = await self._parts.engines.resolve(Principal(), self._model_id)
        return await generate_answer(
            engine, self._parts.prompts, question, context, max_tokens=max_tokens, temperature=temperature
        )

    async def stream_answer(
        self, question: str, context: str | None = None, max_tokens: int = 256, temperature: float = 0.2
    ) -> AsyncGenerator[str, None]:
        """Yield the server-sent event text of an answer to `question`, from `context` alone when it is given."""
        body = question_body(self._parts.prompts, question, context, max_tokens=max_tokens, temperature=temperature)
        stream = self.stream_chat(body)
        try:
            async for frame in stream:
                yield frame
        finally:
            await stream.aclose()

    async def default_model(self) -> str:
        """Return the id of the model that answers where none is named."""
        return self._model_id

    async def models(self) -> list[dict[str, Any]]:
        """List the chat models that can be asked, as OpenAI model objects."""
        return await self._parts.services.chat.models(Principal())

    async def load_model(self, model_id: str, force_reload: bool = False) -> ModelStatus:
        """Load a local model and return once it is ready."""
        return await self._parts.services.lifecycle.load(model_id, force_reload=force_reload)

    async def unload_model(self, model_id: str, level: str = "sleep") -> ModelStatus:
        """Unload a local model and return once its memory is back; `full` ends one that could sleep."""
        request = validate(UnloadRequest, {"model_id": model_id, "level": level})
        return await self._parts.services.lifecycle.unload(request.model_id, level=request.level)

    async def get_model_info(self, model_id: str) -> dict[str, Any]:
        """Return device, memory, quantisation, context and generation defaults of a loaded model."""
        return (await self._parts.services.lifecycle.info(model_id)).model_dump(mode="json")

    async def update_generation_config(self, model_id: str, changes: dict[str, Any]) -> dict[str, Any]:
        """Change the generation defaults of a loaded model and return those in force."""
        defaults = validate(GenerationDefaults, changes)
        lifecycle = self._parts.services.lifecycle
        return (await lifecycle.update_generation_config(model_id, defaults)).model_dump(exclude_none=True)

    async def clear_cache(self, model_id: str) -> bool:
        """Forget the cached prompts of a loaded model; False when requests in flight still hold some."""
        return await self._parts.services.lifecycle.clear_cache(model_id)

    async def recommend(self, store_id: int, user_id: int, n: int = 10) -> dict[str, Any]:
        """Return what `POST /predict/recommendations` answers."""
        request = validate(RecommendationsRequest, {"store_id": store_id, "user_id": user_id, "n": n})
        return (await self._parts.recsys.recommendations(Principal(), request)).model_dump(mode="json")

    async def trending(self, store_id: int, n: int = 10) -> dict[str, Any]:
        """Return what `POST /predict/trending` answers."""
        request = validate(TrendingRequest, {"store_id": store_id, "n": n})
        return (await self._parts.recsys.trending(Principal(), request)).model_dump(mode="json")

    async def next_items(self, store_id: int, item_history: list[int], top_k: int = 10) -> dict[str, Any]:
        """Return what `POST /predict/next-items` answers."""
        request = validate(NextItemsRequest, {"store_id": store_id, "item_history": item_history, "top_k": top_k})
        return (await self._parts.recsys.next_items(Principal(), request)).model_dump(mode="json")

    async def transcribe(
        self, audio: bytes, model: str = AUTO_MODEL, language: str | None = None, phrases: list[str] | None = None
    ) -> dict[str, Any]:
        """Return what is said in an audio file: text, language, duration, segments and words with times."""
        options = RecognitionOptions(model, language, tuple(phrases or ()))
        transcript = await self._parts.services.speech.transcribe(Principal(), audio, options)
        return {"text": transcript.text} | asdict(transcript)

    async def upload_file(self, filename: str, content: bytes, purpose: str) -> dict[str, Any]:
        """Store a file and return OpenAI's `file` object."""
        fields = validate(FileFields, {"purpose": purpose})

        async def pieces() -> AsyncGenerator[bytes, None]:
            yield content

        files = self._parts.services.files
        file = await files.upload(Principal(), filename=filename, purpose=fields.purpose, content=pieces())
        return file.model_dump(mode="json")

    async def start_training(self, body: dict[str, Any], idempotency_key: str | None = None) -> dict[str, Any]:
        """Take a body of `POST /v1/fine_tuning/jobs` and return its job."""
        request = from_openai(validate(JobCreate, body))
        job = await self._parts.services.finetuning.create(Principal(), request, idempotency_key)
        return job.model_dump(mode="json")

    async def training(self, job_id: str) -> dict[str, Any]:
        """Return a training as it is now."""
        return (await self._parts.services.finetuning.get(Principal(), job_id)).model_dump(mode="json")

    async def cancel_training(self, job_id: str) -> dict[str, Any]:
        """Stop a training for good and return it."""
        return (await self._parts.services.finetuning.cancel(Principal(), job_id)).model_dump(mode="json")

    async def check_health(self) -> None:
        """Raise when the ingest worker has ended, so that Serve replaces this replica; outages of parts do not count."""
        self._parts.check()

    async def __del__(self) -> None:
        if self._server is not None:
            await self._server.close()
        await asyncio.shield(self._parts.close())

    def _with_model(self, body: dict[str, Any]) -> dict[str, Any]:
        return {"model": self._model_id} | body
