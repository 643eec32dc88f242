"""From a trained adapter to one that answers by name: asked in the serving engine, then published once.

A kill at any moment is made good by doing it again: what was published for the job is found, and not published twice.
"""

import asyncio
import logging
import secrets
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from pydantic import TypeAdapter

from aihub.core.concurrency import run_to_end
from aihub.core.errors import HubError, InternalError, InvalidRequestError
from aihub.core.schemas import validate
from aihub.finetuning.adapter_folder import Adapter, AdapterManifest, AdapterUnusableError
from aihub.finetuning.adapter_store import AdapterStore
from aihub.finetuning.evaluation import EvaluationReport, Score
from aihub.finetuning.job_folder import JobFolder
from aihub.finetuning.questions import Question, read_questions
from aihub.finetuning.settings import FineTuningSettings
from aihub.finetuning.tables.open_jobs import OpenJob, OpenJobTable

logger = logging.getLogger(__name__)

QUESTIONS_AT_ONCE = 4
"""Each is asked of two or three models; the rest of the engine is for those who chat."""
TRIES = 3
TRY_PAUSE_S = 2.0
PROBE = Question([{"role": "user", "content": "1"}], "", 1)
"""Asked where the data have no short answer: an adapter has to say something."""

_REPORTS = TypeAdapter(EvaluationReport)


class AdapterEngine(Protocol):
    """Serving engines of local models. All methods raise `HubError`; a `retryable` one where it may work later."""

    async def ensure(self, base: str) -> None:
        """Return once the model can be asked."""

    async def load_adapter(self, base: str, adapter_id: str, folder: Path) -> None:
        """Load an adapter that is not published under a name of its own."""

    async def remove_adapter(self, base: str, adapter_id: str) -> None:
        """Forget it again."""

    async def chat(self, base: str, body: dict[str, Any]) -> dict[str, Any]:
        """Answer a chat body; its `model` is the base or an adapter of it."""
        ...


@dataclass(frozen=True, slots=True)
class _Shares:
    """Parts of the questions that were answered word for word; None where none could be asked."""

    asked: int
    base: float | None
    candidate: float | None
    current: float | None


class Publication:
    """Publishes the adapters of jobs.

    Args:
        home: State folder.
        published: Called when the store has one more adapter.
    """

    def __init__(
        self,
        jobs: OpenJobTable,
        store: AdapterStore,
        engine: AdapterEngine,
        home: Path,
        published: Callable[[], Awaitable[None]],
    ) -> None:
        self._jobs = jobs
        self._store = store
        self._engine = engine
        self._home = home
        self._published = published

    async def finish(self, job: OpenJob, base_digest: str) -> None:
        """Ask the adapter of a job, publish it, and write down that the job has succeeded.

        Raises:
            AdapterUnusableError: The engine does not load it, or it gives no answer.
            HubError: A `retryable` one when the engine cannot be asked now.
        """
        if await self.finish_published(job):
            return
        folder = JobFolder.of(self._home, job.id)
        report = _REPORTS.validate_python(job.evaluation)
        shares = await self._ask(job, folder, report.current_id)
        report = replace(
            report,
            asked_rows=shares.asked,
            base=replace(report.base, exact=shares.base),
            candidate=replace(report.candidate, exact=shares.candidate),
            current=Score(report.current.loss, shares.current) if report.current is not None else None,
        )
        async with self._jobs.publishing(job, asdict(report)) as succeed:
            if succeed is None:
                return
            adapter = await asyncio.to_thread(self._find, job.id)  # another process may have been faster, and died
            if adapter is None:
                adapter = await run_to_end(self._store.publish, folder.candidate, _describe(job, report, base_digest))
            await succeed(adapter.adapter_id)
        await self._published()

    async def finish_published(self, job: OpenJob) -> bool:
        """Write down the adapter of a job that has been published already; False when none has."""
        adapter = await asyncio.to_thread(self._find, job.id)
        if adapter is None:
            return False
        await self._jobs.succeed(job, adapter.adapter_id)
        await self._published()
        return True

    def _find(self, job_id: str) -> Adapter | None:
        return next((adapter for adapter in self._store.list() if adapter.manifest.job_id == job_id), None)

    async def _ask(self, job: OpenJob, folder: JobFolder, current_id: str | None) -> _Shares:
        """Load the adapter in the engine, ask it beside its base and the adapter in use, and take it out again."""
        questions = await asyncio.to_thread(read_questions, folder.questions)
        # Another process may try the same adapter, while the hub is redeployed say, and takes its own name out again.
        candidate_id = f"{job.base_model}:{job.id}-{secrets.token_hex(3)}"
        await self._engine.ensure(job.base_model)
        try:
            await self._engine.load_adapter(job.base_model, candidate_id, folder.candidate)
            return await self._count_right(job.base_model, candidate_id, current_id, questions)
        finally:  # also after a load that took too long: the engine may have it all the same
            await self._take_out(job.base_model, candidate_id)

    async def _take_out(self, base: str, candidate_id: str) -> None:
        try:
            await self._engine.remove_adapter(base, candidate_id)
        except HubError as error:  # how the adapter did counts, or why it could not be asked
            logger.warning("%s could not be taken out of the engine: %s", candidate_id, error.message)

    async def _count_right(self, base: str, candidate_id: str, current_id: str | None, questions: Sequence[Question]) -> _Shares:
        """Ask all models the same questions.

        Raises:
            AdapterUnusableError: The candidate gives no answer.
        """
        probe = questions[0] if questions else PROBE
        try:
            await self._answer(base, candidate_id, probe)
        except HubError as error:
            if error.retryable or isinstance(error, InternalError):
                raise
            raise AdapterUnusableError(f"The adapter gives no answer: {error.message}") from error
        models = [base, candidate_id]
        if current_id is not None and await self._can_answer(base, current_id, probe):
            models.append(current_id)
        turns = asyncio.Semaphore(QUESTIONS_AT_ONCE)

        async def ask(question: Question) -> list[bool] | None:
            async with turns:
                try:
                    return [question.is_answered_by(await self._answer(base, model, question)) for model in models]
                except InvalidRequestError:  # longer than what is served, say
                    return None

        asked = [asyncio.create_task(ask(question)) for question in questions]
        try:
            answered = [row for row in await asyncio.gather(*asked) if row is not None]
        finally:
            for task in asked:
                task.cancel()
        if not answered:
            return _Shares(0, None, None, None)
        shares = [sum(column) / len(answered) for column in zip(*answered, strict=True)]
        return _Shares(len(answered), shares[0], shares[1], shares[2] if len(shares) > 2 else None)

    async def _can_answer(self, base: str, adapter_id: str, probe: Question) -> bool:
        """Whether an adapter that was promoted when the job was evaluated is still there."""
        try:
            await self._answer(base, adapter_id, probe)
        except InvalidRequestError as error:
            logger.warning("%s cannot be asked any more: %s", adapter_id, error.message)
            return False
        return True

    async def _answer(self, base: str, model: str, question: Question) -> str:
        """Return what a model says, as likely as it can; tried again where the engine is full.

        Raises:
            HubError: It says nothing.
        """
        body = {
            "model": model,
            "messages": question.messages,
            "max_tokens": question.max_tokens,
            "temperature": 0.0,
            "stream": False,
        }
        for left in range(TRIES - 1, -1, -1):
            try:
                answer = await self._engine.chat(base, body)
                return str(answer["choices"][0]["message"]["content"] or "")
            except HubError as error:
                if not (error.retryable and left):
                    raise
            await asyncio.sleep(TRY_PAUSE_S)
        raise AssertionError("unreachable")


def _describe(job: OpenJob, report: EvaluationReport, base_digest: str) -> AdapterManifest:
    validation = job.datasets.get("validation")
    return AdapterManifest(
        tenant_id=job.tenant_id,
        base_model=job.base_model,
        base_digest=base_digest,
        name=job.name,
        job_id=job.id,
        created_at=int(time.time()),
        rank=validate(FineTuningSettings, job.settings).rank,
        data_sha256=job.datasets["training"]["sha256"],
        validation_sha256=validation["sha256"] if validation else None,
        settings=job.settings,
        metrics=job.metrics or {},
        evaluation=report,
    )
