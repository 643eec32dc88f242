"""Which chat models can be asked, by the name clients send."""

from aihub.engines.base import ChatEngine, ChatModelCard
from pipelines.chat import model_not_found


class ChatEngines:
    """The chat engines of this hub; implements `pipelines.chat.EngineDirectory`."""

    def __init__(self, engines: dict[str, ChatEngine], cards: list[ChatModelCard]) -> None:
        self._engines = engines
        self._cards = cards

    async def resolve(self, model_id: str) -> ChatEngine:
        """Return the engine of a model.

        Raises:
            NotFoundError: No such model (`model_not_found`).
        """
        engine = self._engines.get(model_id)
        if engine is None:
            raise model_not_found(model_id, self._engines)
        return engine

    async def list(self) -> list[ChatModelCard]:
        return self._cards
