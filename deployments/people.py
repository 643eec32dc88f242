"""Who calls and what they leave: accounts, limits, conversations, cached answers and usage, around the chat pipeline."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from aihub.accounts.accounts import Accounts
from aihub.accounts.authenticator import KeyAuthenticator
from aihub.accounts.metrics import LimitMetrics
from aihub.accounts.rate_limits import RateLimits
from aihub.accounts.settings import LimitSettings
from aihub.cache.settings import CacheSettings
from aihub.cache.store import RedisAnswerStore
from aihub.chat.assistants import load_assistants
from aihub.chat.history import EngineHistory
from aihub.chat.messages import check_message
from aihub.chat.routing import ModelCandidate
from aihub.chat.service import ChatService
from aihub.conversations.conversations import Conversations
from aihub.conversations.recent_turns import RecentTurns
from aihub.conversations.remembered_preferences import RememberedPreferences
from aihub.conversations.settings import ConversationSettings
from aihub.conversations.tables.store import ConversationStore
from aihub.conversations.tables.turns import TurnTable
from aihub.conversations.turns import Turns
from aihub.core.cache import Cache
from aihub.core.fair_queue import FairQueue
from aihub.core.metrics import Metrics
from aihub.core.postgres import Database
from aihub.core.principal import Principal
from aihub.core.profiles import EmbeddingsProfile, GenerationProfile, LLMProfile
from aihub.core.settings import Settings
from aihub.embeddings.service import Embedder
from aihub.models.service import LifecycleService
from aihub.usage.analytics import UsageAnalytics
from aihub.usage.metrics import UsageMetrics
from aihub.usage.recorder import UsageRecorder
from aihub.usage.settings import UsageSettings
from aihub.usage.system import SystemMetrics
from aihub.usage.tables.past_answers import PastAnswerTable
from aihub.usage.tables.recent_usage import RecentUsageTable
from aihub.usage.tables.usage_figures import UsageFiguresTable
from aihub.usage.tables.usage_records import UsageTable
from deployments.metering import new_meter
from deployments.request_costs import RequestCosts
from pipelines.cached_chat import CachedChat
from pipelines.chat import ChatPipeline
from pipelines.context_window import ContextWindows
from pipelines.conversation_summary import ConversationSummaries
from pipelines.directory import ProviderDirectory
from pipelines.fair_embedder import FairEmbedder
from pipelines.fair_turn import ModelTurns
from pipelines.hub_tool_chat import HubToolChat
from pipelines.hub_tools import HubTools
from pipelines.limited_chat import LimitedChat
from pipelines.restored_history import restore_history
from pipelines.stored_chat import StoredChat


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
        self._cache_settings = CacheSettings()
        self._answers = RedisAnswerStore(cache, self._cache_settings)
        self._cached_chats: list[CachedChat] = []
        self.accounts = Accounts(database)
        store, recent, conversation_settings = ConversationStore(database), RecentTurns(cache), ConversationSettings()
        self.conversations = Conversations(
            store,
            check_message,
            forget=recent.forget,
            require_model=self._require_choice,
            days=conversation_settings.days,
        )
        self.preferences = RememberedPreferences(store.read_preferences)
        self._turns = Turns(TurnTable(database), recent, note_request=self.conversations.retention.note_request)
        self._assistants = load_assistants(settings.assistants)
        self.authenticator = KeyAuthenticator(database, is_local=is_local)
        self.limit_metrics = LimitMetrics(metrics.registry)
        redis_url = settings.redis_url.get_secret_value() if settings.redis_url else None
        self.limiter = RateLimits(
            redis_url,
            LimitSettings(),
            self.limit_metrics,
            timeout_s=settings.cache_timeout_s,
            used_today=RecentUsageTable(database).tokens_today,
        )
        usage_metrics = UsageMetrics(metrics.registry)
        costs = RequestCosts(new_meter())
        self.usage = UsageRecorder(UsageTable(database), usage_metrics, days=UsageSettings().days, costs=costs)
        self._summaries = ConversationSummaries(self._turns, self.usage.record) if conversation_settings.summary else None
        self.analytics = UsageAnalytics(UsageFiguresTable(database))

    def build_system_metrics(self, lifecycle: LifecycleService) -> SystemMetrics:
        """Return what tells of the machine, of models and of tenants."""
        return SystemMetrics(lifecycle, RecentUsageTable(self._database), self._settings.home_path)

    def find_windows(
        self, engines: ProviderDirectory, local_candidates: Callable[[], Awaitable[Sequence[ModelCandidate]]]
    ) -> None:
        """Take the models that conversations are fitted to and favourites chosen from; before `build_chat`."""
        self._engines = engines
        self._windows = ContextWindows(engines, local_candidates, self._assistants)

    async def _require_choice(self, principal: Principal, model_id: str) -> None:
        await self._engines.require_choice(principal, model_id)

    async def restore(self, history: EngineHistory) -> None:
        """Let `history` know how models answered before this process began; the database is open by then."""
        await restore_history(history, PastAnswerTable(self._database))

    async def close(self) -> None:
        """End it; the database is still open."""
        if self._summaries is not None:
            await self._summaries.close()
        await self._turns.close()
        await self.conversations.close()
        await asyncio.gather(*(chat.close() for chat in self._cached_chats))
        await asyncio.gather(self.authenticator.close(), self.usage.close(), self.limiter.close())

    def limit(self, pipeline: ChatPipeline) -> LimitedChat:
        """Return a chat pipeline within the limits of keys."""
        usual = self._settings.default_max_tokens or GenerationProfile().max_tokens
        return LimitedChat(pipeline, self.limiter, usual_answer_tokens=usual)

    def model_turns(self, profile: LLMProfile) -> ModelTurns:
        """Return the turns at models: as many places as their replicas work on at a time, the rest of what they take waits."""
        replicas = profile.autoscaling.max_replicas
        waiting = profile.max_queued_requests * replicas
        return ModelTurns(profile.max_ongoing_requests * replicas, waiting, self.limit_metrics.refused)

    def fair_embedder(self, embedder: Embedder, profile: EmbeddingsProfile) -> FairEmbedder:
        """Return the embedder in fair turns.

        Half of what it works on at a time fills its batches; the other half only made one key wait behind the texts of another.
        """
        replicas = profile.autoscaling.max_replicas
        places = max(1, profile.max_ongoing_requests // 2) * replicas
        most = (profile.max_ongoing_requests + profile.max_queued_requests) * replicas
        return FairEmbedder(embedder, FairQueue(places, most - places), self.limit_metrics.refused)

    def build_chat(self, pipeline: ChatPipeline, tools: HubTools) -> ChatService:
        """Return the chat that routes and handles ask: conversations around hub tools around the cache around limits around
        the pipeline.
        """
        cached = CachedChat(
            self.limit(pipeline), pipeline, self._answers, ttl_s=self._cache_settings.ttl_s, metrics=self._metrics
        )
        self._cached_chats.append(cached)
        chat = HubToolChat(cached, tools, self._assistants)
        return StoredChat(chat, self._turns, self._windows, self.preferences, self._summaries)
