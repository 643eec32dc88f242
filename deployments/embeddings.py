"""The embeddings deployment: a `SentenceEmbedder` behind a handle."""

from collections.abc import Sequence

from aihub.core.errors import ModelUnavailableError
from aihub.core.health import PartHealth
from aihub.core.profiles import EmbeddingsProfile
from aihub.embeddings.embedder import SentenceEmbedder
from aihub.embeddings.service import Embedder, EmbedderInfo, Embeddings
from deployments.cancellation import quiet_refusals
from deployments.metering import metered, new_meter


@metered(Embedder)
class EmbeddingsDeployment(Embedder):
    """One replica of the embeddings model; requests of all callers are batched together."""

    async def __init__(self, model_path: str, model_id: str, device: str, profile: EmbeddingsProfile) -> None:  # type: ignore[misc]  # Serve awaits it
        quiet_refusals()
        self.meter = new_meter(device)
        self._embedder = SentenceEmbedder(
            model_path,
            model_id,
            device=device,
            languages=profile.languages,
            max_batch_tokens=profile.max_batch_tokens,
        )
        await self._embedder.start()

    async def model_info(self) -> EmbedderInfo:
        return await self._embedder.model_info()

    async def embed(self, inputs: Sequence[str] | Sequence[Sequence[int]]) -> Embeddings:
        """Return one vector per input; raises `InvalidRequestError` for inputs the model cannot take."""
        return await self._embedder.embed(inputs)

    async def health(self) -> PartHealth:
        return await self._embedder.health()

    async def check_health(self) -> None:
        """Raise when the engine cannot work, so that Serve replaces this replica."""
        health = await self._embedder.health()
        if health.status == "down":
            raise ModelUnavailableError(f"The embeddings engine is down: {health.reason}")
