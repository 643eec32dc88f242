"""The hub for Python code on the same Ray cluster: typed calls over Serve handles, the same errors as HTTP.

from deployments.client import HubClient
hub = HubClient()
answer = await hub.generate_answer("Name the capital of France.")
"""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Any, Literal

from ray import serve

from aihub.core.errors import InvalidRequestError
from aihub.core.principal import Principal
from aihub.models.memory.device import require_weight_bits
from aihub.models.memory.state import UnloadLevel
from aihub.models.memory.status import ModelStatus
from aihub.speech.service import AUTO_MODEL
from deployments.handles import translate_error
from deployments.remote_texts import remote_texts
from pipelines.answer import GeneratedAnswer

HUB_APP = "hub"


class HubClient:
    """Calls the running hub; use inside a Ray job or actor of its cluster.

    Every method raises `aihub.core.errors.HubError` children: what HTTP answers as 404, 429 or 503 comes as `NotFoundError`,
    `RateLimitError` or `UnavailableError`, with the same message.

    Args:
        app_name: Of the hub's application.
        principal: Whom the calls are for: what it may see and do, and whose usage it is; the administrator of the default tenant
            when None.

    Raises:
        ModelUnavailableError: No hub runs on this cluster.
    """

    def __init__(self, app_name: str = HUB_APP, principal: Principal | None = None) -> None:
        self._for = {} if principal is None else {"principal": principal}
        try:
            self._hub = serve.get_app_handle(app_name)
        except Exception as error:
            raise translate_error(error, "The hub") from error
        self._stream = self._hub.options(method_name="stream_chat", stream=True)
        self._answer_stream = self._hub.options(method_name="stream_answer", stream=True)

    async def chat(self, messages: Sequence[dict[str, Any]], **options: Any) -> dict[str, Any]:
        """Return OpenAI's `chat.completion` object.

        Args:
            messages: OpenAI chat messages.
            options: Further fields of the chat request, e.g. `max_tokens`, `temperature`, `retrieval`, `model`.
        """
        answer: dict[str, Any] = await self._call("chat", {"messages": list(messages)} | options)
        return answer

    async def stream_chat(self, messages: Sequence[dict[str, Any]], **options: Any) -> AsyncGenerator[str, None]:
        """Yield the pieces of the answer's text as the model writes them; closing the generator stops the model."""
        async with aclosing(remote_texts(self._stream.remote({"messages": list(messages)} | options, **self._for))) as texts:
            async for text in texts:
                yield text

    async def stream_answer(
        self, question: str, context: str | None = None, max_tokens: int = 256, temperature: float = 0.2
    ) -> AsyncGenerator[str, None]:
        """Yield the pieces of an answer to `question`, from `context` alone when it is given; closing stops the model."""
        async with aclosing(
            remote_texts(self._answer_stream.remote(question, context, max_tokens, temperature, **self._for))
        ) as texts:
            async for text in texts:
                yield text

    async def embed(self, texts: Sequence[str]) -> list[list[float]]:
        """Return one vector of norm 1 per text, in order."""
        vectors: list[list[float]] = await self._call("embed", list(texts))
        return vectors

    async def generate_answer(
        self, question: str, context: str | None = None, max_tokens: int = 256, temperature: float = 0.2
    ) -> GeneratedAnswer:
        """Answer `question`, from `context` alone when it is given."""
        answer: GeneratedAnswer = await self._call("generate_answer", question, context, max_tokens, temperature)
        return answer

    async def default_model(self) -> str:
        """Return the id of the chat model that answers where none is named."""
        model_id: str = await self._call("default_model")
        return model_id

    async def models(self) -> list[dict[str, Any]]:
        """List the chat models that can be asked, as OpenAI model objects."""
        models: list[dict[str, Any]] = await self._call("models")
        return models

    async def load_model(self, model_id: str, *, force_reload: bool = False) -> ModelStatus:
        """Load a local model and return once it is ready."""
        status: ModelStatus = await self._call("load_model", model_id, force_reload)
        return status

    async def unload_model(self, model_id: str, *, level: UnloadLevel = "sleep") -> ModelStatus:
        """Unload a local model and return once its memory is back.

        Args:
            level: `sleep` keeps the weights in RAM where the model can sleep (state `sleeping`); `full` ends it.
        """
        status: ModelStatus = await self._call("unload_model", model_id, level)
        return status

    async def get_model_info(self, model_id: str) -> dict[str, Any]:
        """Return device, memory, quantisation, context and generation defaults of a loaded model."""
        info: dict[str, Any] = await self._call("get_model_info", model_id)
        return info

    async def update_generation_config(self, model_id: str, **changes: Any) -> dict[str, Any]:
        """Change the generation defaults of a loaded model (`temperature=0.2`; None takes one back); return those in force."""
        defaults: dict[str, Any] = await self._call("update_generation_config", model_id, changes)
        return defaults

    async def clear_cache(self, model_id: str) -> bool:
        """Forget the cached prompts of a loaded model; False when requests in flight still hold some."""
        cleared: bool = await self._call("clear_cache", model_id)
        return cleared

    async def recommend(self, store_id: int, user_id: int, n: int = 10) -> dict[str, Any]:
        """Recommend items of a store to a customer; the fields of `POST /predict/recommendations`."""
        answer: dict[str, Any] = await self._call("recommend", store_id, user_id, n)
        return answer

    async def trending(self, store_id: int, n: int = 10) -> dict[str, Any]:
        """Return what will sell most in a store's next period; the fields of `POST /predict/trending`."""
        answer: dict[str, Any] = await self._call("trending", store_id, n)
        return answer

    async def next_items(self, store_id: int, item_history: Sequence[int], top_k: int = 10) -> dict[str, Any]:
        """Return what may follow these items, oldest first; the fields of `POST /predict/next-items`."""
        answer: dict[str, Any] = await self._call("next_items", store_id, list(item_history), top_k)
        return answer

    async def transcribe(
        self, audio: bytes, *, model: str = AUTO_MODEL, language: str | None = None, phrases: Sequence[str] = ()
    ) -> dict[str, Any]:
        """Return what is said in an audio file of any format that the hub reads.

        Args:
            audio: The file's bytes.
            model: Key of an installed speech model; `auto` chooses by the language that is spoken.
            language: ISO 639-1 code, where it is known.
            phrases: Words and phrases to listen for; nothing else is recognised then.

        Returns:
            `text`, `model_id`, `language`, `duration_s` and `segments`, each with `text`, `start_s`, `end_s` and `words` (`text`,
            `start_s`, `end_s`, `confidence`).
        """
        transcript: dict[str, Any] = await self._call("transcribe", audio, model, language, list(phrases))
        return transcript

    async def upload_training_file(self, filename: str, content: bytes) -> str:
        """Store a data set (JSON lines, JSON or CSV) and return its file id."""
        file: dict[str, Any] = await self._call("upload_file", filename, content, "fine-tune")
        return str(file["id"])

    async def start_training(
        self, model: str, training_file: str, *, idempotency_key: str | None = None, **options: Any
    ) -> dict[str, Any]:
        """Start the training of an adapter and return its job; none of its data is wrong then.

        Args:
            model: Base model.
            training_file: Id of an uploaded file.
            idempotency_key: A second call with the same key returns the first one's job.
            options: Further fields of `POST /v1/fine_tuning/jobs`, such as `suffix`, `validation_file`, `lora={"epochs": 5}`.
        """
        body = {"model": model, "training_file": training_file} | options
        job: dict[str, Any] = await self._call("start_training", body, idempotency_key)
        return job

    async def training(self, job_id: str) -> dict[str, Any]:
        """Return a training as it is now, as `GET /v1/fine_tuning/jobs/{id}` does."""
        job: dict[str, Any] = await self._call("training", job_id)
        return job

    async def follow_training(self, job_id: str, period_s: float = 1.0) -> AsyncGenerator[dict[str, Any], None]:
        """Yield a training whenever it has got further, until it goes on no more by itself."""
        last: dict[str, Any] | None = None
        while last is None or last["status"] in {"queued", "running"}:
            job = await self.training(job_id)
            if job != last:
                last = job
                yield job
            if job["status"] in {"queued", "running"}:
                await asyncio.sleep(period_s)

    async def cancel_training(self, job_id: str) -> dict[str, Any]:
        """Stop a training for good; nothing of it is kept."""
        job: dict[str, Any] = await self._call("cancel_training", job_id)
        return job

    async def _call(self, method: str, *args: Any) -> Any:
        try:
            return await getattr(self._hub, method).remote(*args, **self._for)
        except Exception as error:
            raise translate_error(error, "The hub") from error


class LLMService:
    """The face of the offline LLM service before the hub: the same names for the hub's default chat model.

    How each call maps is in docs/migrating.md. Errors are those of `HubClient`.

    Args:
        hub: The client to call through; a new one when None.
    """

    def __init__(self, hub: HubClient | None = None) -> None:
        self._hub = hub or HubClient()

    async def generate_answer(
        self, question: str, context: str | None = None, max_tokens: int = 256, temperature: float = 0.2
    ) -> GeneratedAnswer:
        """Answer `question`, from `context` alone when it is given."""
        return await self._hub.generate_answer(question, context, max_tokens, temperature)

    async def generate_answer_with_streaming(
        self, question: str, context: str | None = None, max_tokens: int = 256, temperature: float = 0.2
    ) -> AsyncGenerator[str, None]:
        """Yield the pieces of the same answer as the model writes them; closing the generator stops the model."""
        async with aclosing(self._hub.stream_answer(question, context, max_tokens, temperature)) as texts:
            async for text in texts:
                yield text

    async def update_generation_config(
        self, temperature: float | None = None, top_p: float | None = None, top_k: int | None = None
    ) -> dict[str, Any]:
        """Change what requests get that leave these out, and return all defaults in force; None leaves one as it is.

        They outlive unloading and restarts. `generate_answer` names its own temperature.
        """
        changes = {"temperature": temperature, "top_p": top_p, "top_k": top_k}
        given = {name: value for name, value in changes.items() if value is not None}
        return await self._hub.update_generation_config(await self._hub.default_model(), **given)

    async def clear_gpu_cache(self) -> bool:
        """Forget the cached prompts (KV cache); False when requests in flight still hold some.

        The engine keeps the memory that it reserved: it is given back when the model is unloaded.
        """
        return await self._hub.clear_cache(await self._hub.default_model())

    async def get_model_info(self) -> dict[str, Any]:
        """Return `device`, `gpu_name` (None on a CPU), `gpu_memory_allocated` (GB) and the other fields of a loaded model."""
        return await self._hub.get_model_info(await self._hub.default_model())

    async def optimize_for_gpu(
        self, use_quantization: bool = True, load_in_8bit: bool = False, load_in_4bit: bool = False
    ) -> dict[str, Any]:
        """Return the model's info where it runs on a GPU as asked.

        Args:
            use_quantization: Whether quantised weights are wanted; without them the model is as it should be.
            load_in_8bit, load_in_4bit: Bits of the weights; either will do when neither is set.

        Raises:
            InvalidRequestError: The model does not run like that. The engine quantises no loaded model; the message says what
                to serve instead.
        """
        if load_in_8bit and load_in_4bit:
            raise InvalidRequestError("Weights have 8 or 4 bits: set load_in_8bit or load_in_4bit.", param="load_in_4bit")
        info = await self.get_model_info()
        if use_quantization:
            wanted: Literal[4, 8] | None = 8 if load_in_8bit else 4 if load_in_4bit else None
            require_weight_bits(info["model_id"], info["device"], info["weight_bits"], wanted)
        return info
