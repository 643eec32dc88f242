async def test_waiter_that_is_cancelled_as_its_turn_comes_ends_as_cancelled() -> None:
    semaphore = ResizableSemaphore(1)
    await semaphore.__aenter__()
    waiting = asyncio.create_task(semaphore.__aenter__())
    await asyncio.sleep(0)
    waiting.cancel()
    await semaphore.__aexit__(None, None, None)  # comes by before the waiter has heard of its end
    with pytest.raises(asyncio.CancelledError):
        await waiting
    async with asyncio.timeout(1):
        await semaphore.__aenter__()
