"""Who calls and what they leave: accounts, limits, conversations, cached answers and usage, around the chat pipeline."""

from aihub.accounts.accounts import Accounts
from aihub.accounts.authenticator import KeyAuthenticator
from aihub.chat.messages import check_message
from aihub.chat.service import ChatService
from aihub.conversations.conversations import Conversations
from aihub.conversations.recent_turns import RecentTurns
from aihub.conversations.settings import ConversationSettings
from aihub.conversations.tables.store import ConversationStore
from aihub.core.cache import Cache
from aihub.core.metrics import Metrics
from aihub.core.postgres import Database
from aihub.core.settings import Settings
from pipelines.chat import ChatPipeline
from pipelines.hub_tool_chat import HubToolChat
from pipelines.hub_tools import HubTools


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
        self.conversations = Conversations(
            ConversationStore(database), check_message, forget=RecentTurns(cache).forget, days=ConversationSettings().days
        )
        self.authenticator = KeyAuthenticator(database, is_local=is_local)

    async def start(self) -> None:
        """Begin what goes on beside requests; the database is open by then."""

    async def close(self) -> None:
        """End it; the database is still open."""
        await self.conversations.close()
        await self.authenticator.close()

    def build_chat(self, pipeline: ChatPipeline, tools: HubTools) -> ChatService:
        """Return the chat that routes and handles ask: conversations around hub tools around the cache around limits around
        the pipeline.
        """
        return HubToolChat(pipeline, tools)
