"""What a training asks of a kind of model; `aihub.recsys.families` has the three."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from aihub.recsys.artifacts import Version
from aihub.recsys.fit_checkpoint import FitCheckpoint
from aihub.recsys.results import Cancelled, Progress
from aihub.recsys.store_data.extraction import StoreReader


class Trained(Protocol):
    """What a fit gives.

    Attributes:
        metrics: Figures on the held-out data, among them the one that decides (`aihub.recsys.artifacts.GATES`).
        details: More to remember: which of several models won, and by how much.
    """

    @property
    def metrics(self) -> Mapping[str, float]: ...

    @property
    def details(self) -> Mapping[str, Any]: ...

    @property
    def save(self) -> Callable[[Path], None]:
        """Writes the model into an empty folder."""
        ...

    @property
    def evaluate(self) -> Callable[[Version], dict[str, float] | None]:
        """Figures of another saved version on the same held-out data; None when they cannot be compared."""
        ...


class ModelFamily(Protocol):
    """One kind of model: how its data is read and how it is fitted.

    Attributes:
        data_type: Of what `read` returns: a dataclass of arrays and JSON values, with a length.
    """

    @property
    def data_type(self) -> type[Any]: ...

    def read(self, reader: StoreReader, parameters: Mapping[str, Any]) -> Any: ...

    def fit(
        self, data: Any, parameters: Mapping[str, Any], *, progress: Progress, cancelled: Cancelled, checkpoint: FitCheckpoint
    ) -> Trained:
        """Fit and measure.

        Args:
            checkpoint: What a killed process of this training has left, and where to leave something.
        """
        ...
