"""What the host says of memory, for those who must go on when it does not answer."""

import asyncio
import logging

from aihub.errors import HubError
from aihub.lifecycle.board import Board
from aihub.lifecycle.host import DeviceMemory, ModelHost
from aihub.lifecycle.ledger import gib
from aihub.lifecycle.state import ModelRecord

logger = logging.getLogger(__name__)

GIVEN_BACK = 0.9
"""Share of freed memory that must show as free again; drivers keep a little."""


class HostMemory:
    """Reads live memory of devices and models."""

    def __init__(self, board: Board, host: ModelHost) -> None:
        self._board = board
        self._host = host

    async def live(self, device: str) -> DeviceMemory | None:
        """Memory of a device now; None when the host cannot tell."""
        return next((memory for memory in await self._host.device_memory() if memory.device == device), None)

    async def quietly_live(self, device: str) -> DeviceMemory | None:
        """As `live`; a failure is logged and counts as None."""
        try:
            return await self.live(device)
        except HubError as error:
            logger.warning("The memory of %s cannot be read: %s", device, error.message)
            return None

    async def quietly_used(self, record: ModelRecord) -> int | None:
        """What a model holds of its device; None when that cannot be told."""
        try:
            return await self._host.used_bytes(record.model_id)
        except HubError as error:
            logger.warning("The memory of %s cannot be read: %s", record.model_id, error.message)
            return None

    async def wait_for_return(self, record: ModelRecord, before: DeviceMemory | None, freed_bytes: int | None) -> None:
        """Return once the device shows `freed_bytes` more free memory than `before`, or after the policy's time."""
        if before is None or not freed_bytes:
            return
        board = self._board
        target_bytes = min(before.free_bytes + int(freed_bytes * GIVEN_BACK), before.total_bytes)
        deadline_s = board.clock() + board.policy.release_timeout_s
        while board.clock() < deadline_s:
            now = await self.quietly_live(record.spec.device)
            if now is None or now.free_bytes >= target_bytes:
                return
            await asyncio.sleep(board.policy.poll_s)
        # Others may have taken it meanwhile; admission looks at live memory, so nothing is given out twice.
        logger.warning("%s: %s did not come back on %s.", record.model_id, gib(freed_bytes), record.spec.device)
