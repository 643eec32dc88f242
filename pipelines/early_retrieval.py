"""Sources for a question that is still being asked: searched for early, taken where a search at the end would be the same."""

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Any

from aihub.chat.schemas import RetrievalOptions
from aihub.core.principal import Principal
from aihub.documents.search.retriever import Retrieval
from aihub.documents.tables.records import VectorStoreRecord
from pipelines.rag import ChunkFinder, RagPipeline
from pipelines.sentence_index import content_words

logger = logging.getLogger(__name__)

STABLE_S = 0.2
"""Words that stay the same for so long are taken for all that was said so far. Recognisers change their last words until then."""

MIN_CONTENT_WORDS = 2
"""Fewer say too little to search by."""


class StableText:
    """Tells when what was heard so far is worth a search: it ended with a pause, or two results at least `STABLE_S` apart agree.

    Args:
        clock: Seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._text = ""
        self._since_s = 0.0
        self._is_told = False

    def observe(self, text: str, *, is_final: bool) -> bool:
        """Take the text of one result; True once for each text that is stable and long enough.

        Args:
            is_final: Whether the recogniser will not change it any more.
        """
        now_s = self._clock()
        if text != self._text:
            self._text, self._since_s, self._is_told = text, now_s, False
        is_stable = is_final or now_s - self._since_s >= STABLE_S
        if self._is_told or not is_stable or len(set(content_words(text))) < MIN_CONTENT_WORDS:
            return False
        self._is_told = True
        return True


class RememberingFinder:
    """Finds chunks, and gives the last result again when exactly the same is asked.

    The same is: tenant, stores and their versions, text, number, mode and filters. A version grows with every document that
    becomes searchable or is removed, so a search after such a change is made anew.
    """

    def __init__(self, finder: ChunkFinder) -> None:
        self._finder = finder
        self._last: tuple[tuple[Any, ...], Retrieval] | None = None

    async def retrieve(self, tenant_id: str, stores: list[VectorStoreRecord], query: str, **options: Any) -> Retrieval:
        asked = (tenant_id, [(store.id, store.version) for store in stores], query, options)
        if self._last is not None and self._last[0] == asked:
            return self._last[1]
        found = await self._finder.retrieve(tenant_id, stores, query, **options)
        self._last = asked, found
        return found


class EarlyRetrieval:
    """The searches of one spoken question, at most one at a time.

    Args:
        rag: Searches, and later answers.
        options: Where and how to search; without them nothing is searched for.

    Attributes:
        rag: Answers with what was found early, where a search at the end would find the same.
    """

    def __init__(self, rag: RagPipeline, principal: Principal, options: RetrievalOptions | None) -> None:
        self.rag = rag.with_finder(RememberingFinder)
        self._principal = principal
        self._options = options
        self._question = ""
        self._task: asyncio.Task[None] | None = None
        self._ending: list[asyncio.Task[None]] = []

    def begin(self, question: str) -> None:
        """Search for a question in the background; a search for another one is given up."""
        if self._options is None or question == self._question:
            return
        self._question = question
        # Given up here: a task that is cancelled before its first step could not do it for those before it.
        self._give_up()
        self._task = asyncio.create_task(self._search(question, self._options, tuple(self._ending)))

    async def settle(self, question: str) -> bool:
        """Wait for the search for the whole question where it has begun, and give up any other; return whether it had."""
        if self._task is None:
            return False
        if question != self._question:
            await self.close()
            return False
        await asyncio.gather(self._task, return_exceptions=True)
        return True

    async def close(self) -> None:
        """Stop searching."""
        self._give_up()
        if self._ending:
            await asyncio.wait(self._ending)

    def _give_up(self) -> None:
        """Cancel the search; it goes on for a moment, until it has let go of what it holds."""
        self._ending = [task for task in self._ending if not task.done()]
        if self._task is not None:
            self._task.cancel()
            self._ending.append(self._task)
            self._task = None

    async def _search(self, question: str, options: RetrievalOptions, earlier: "tuple[asyncio.Task[None], ...]") -> None:
        if earlier:
            await asyncio.wait(earlier)
        try:
            await self.rag.find(self._principal, question, options)
        except Exception as error:  # noqa: BLE001  # the search at the end tells the client, if it fails as well
            logger.info("An early search failed; it is made again when the question is whole: %s", error)
