"""Models that made room for others, and how they come back."""

import logging

from aihub.core.errors import ModelUnavailableError
from aihub.models.memory.admission import Start, next_step
from aihub.models.memory.loader import CAN_START, Loader
from aihub.models.memory.manager_state import ManagerState
from aihub.models.memory.state import ModelRecord
from aihub.models.memory.transitions import Transitions

logger = logging.getLogger(__name__)


class DisplacedModels:
    """Loads or wakes them once there is room without taking that of others.

    Default models come back whoever displaced them and however long it takes. Others come back after a training, where
    room for them is found soon after its end.
    """

    def __init__(self, manager_state: ManagerState, transitions: Transitions, loader: Loader) -> None:
        self._manager_state = manager_state
        self._transitions = transitions
        self._loader = loader

    async def look(self) -> None:
        """Look at every one of them once; loads go on in the background."""
        manager_state = self._manager_state
        records = [record for record in manager_state.records.values() if self._shall_return(record)]
        for record in sorted(records, key=lambda record: -record.used_s):
            if self._is_too_late(record):
                logger.info("%s made room for a training and finds none now; its next request loads it.", record.model_id)
                record.returns_after_training = False
            elif self._may_begin(record) and await self._has_room(record):
                record.is_restored = True
                self._loader.begin(record)

    def _shall_return(self, record: ModelRecord) -> bool:
        is_default = record.is_displaced and record.model_id in self._manager_state.default_models
        return record.state in CAN_START and (is_default or record.returns_after_training)

    def _is_too_late(self, record: ModelRecord) -> bool:
        manager_state = self._manager_state
        over_s = manager_state.clock() - manager_state.trainings_ended_s
        is_held = manager_state.ledger.trainings(record.spec.device)
        return record.returns_after_training and not is_held and over_s > manager_state.policy.room_timeout_s

    def _may_begin(self, record: ModelRecord) -> bool:
        is_loading = record.load is not None and not record.load.done()
        failure = record.failure
        is_failed = failure is not None and (
            not record.returns_after_training or self._manager_state.clock() < failure.retry_at_s
        )
        return not is_loading and not is_failed

    async def _has_room(self, record: ModelRecord) -> bool:
        manager_state = self._manager_state
        live = await self._transitions.memory.quietly_live(record.spec.device)
        if record.state not in CAN_START:
            return False
        try:
            step = next_step(record, manager_state, live, waited_s=0.0, may_evict=False)
        except ModelUnavailableError:
            return False
        return isinstance(step, Start) and not manager_state.device_lock(record.spec.device).turn.locked()
