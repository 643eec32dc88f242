"""Who calls and what they leave: accounts, limits, conversations, cached answers and usage, around the chat pipeline."""

import asyncio

from aihub.accounts.accounts import Accounts
from aihub.accounts.authenticator import KeyAuthenticator
from aihub.chat.history import EngineHistory
from aihub.chat.service import ChatService
from aihub.core.cache import Cache
from aihub.core.metrics import Metrics
from aihub.core.postgres import Database
from aihub.core.settings import Settings
from aihub.usage.analytics import UsageAnalytics
from aihub.usage.metrics import UsageMetrics
from aihub.usage.recorder import UsageRecorder
from aihub.usage.settings import UsageSettings
from aihub.usage.tables.past_answers import PastAnswerTable
from aihub.usage.tables.usage_figures import UsageFiguresTable
from aihub.usage.tables.usage_records import UsageTable
from pipelines.chat import ChatPipeline
from pipelines.hub_tool_chat import HubToolChat
from pipelines.hub_tools import HubTools
from pipelines.restored_history import restore_history


class People:
    """Builds the parts; `build_chat` puts them around a chat pipeline.

    Args:
        cache: Redis, which may be away.
        is_local: Whether only this machine reaches the hub.
    """

    def __init__(self, settings: Settings, database: Database, cache: Cache, metrics: Metrics, *, is_local: bool) -> None:
        self._settings = settings
        self._database = database
        self._cache = cache
        self._metrics = metrics
        self.accounts = Accounts(database)
        self.authenticator = KeyAuthenticator(database, is_local=is_local)
        usage_metrics = UsageMetrics(metrics.registry)
        self.usage = UsageRecorder(UsageTable(database), usage_metrics, days=UsageSettings().days)
        self.analytics = UsageAnalytics(UsageFiguresTable(database))

    async def start(self) -> None:
        """Begin what goes on beside requests; the database is open by then."""

    async def restore(self, history: EngineHistory) -> None:
        """Let `history` know how models answered before this process began; the database is open by then."""
        await restore_history(history, PastAnswerTable(self._database))

    async def close(self) -> None:
        """End it; the database is still open."""
        await asyncio.gather(self.authenticator.close(), self.usage.close())

    def build_chat(self, pipeline: ChatPipeline, tools: HubTools) -> ChatService:
        """Return the chat that routes and handles ask: conversations around hub tools around the cache around limits around
        the pipeline.
        """
        return HubToolChat(pipeline, tools)
