import asyncio
from collections.abc import Iterator

import pytest

from aihub.media.decoder import SandboxedDecoder
from aihub.media.limits import MediaLimits


@pytest.fixture(scope="module")
def decoder() -> Iterator[SandboxedDecoder]:
    """One process with two seconds of processor time for each file."""
    decoder = SandboxedDecoder(1, limits=MediaLimits(cpu_s=2, step_s=20, memory_mb=768))
    yield decoder
    asyncio.run(decoder.close())
