"""No wait is for ever."""

import asyncio
from collections.abc import Awaitable


class TooLate(Exception):
    """What was waited for did not come."""


async def within(seconds: float, what: str, awaitable: Awaitable):
    """Waits for this at most so long, and says what it waited for if it does not come."""
    try:
        return await asyncio.wait_for(awaitable, seconds)
    except TimeoutError:
        raise TooLate(f"waited {seconds:g} s for {what}") from None


async def stop_all(stops: list) -> None:
    """Calls each, the last first; one that fails or hangs does not keep the others."""
    failed = []
    for stop in reversed(stops):
        try:
            await within(3, f"{stop.__qualname__} to end", stop())
        except Exception as error:
            failed.append(error)
    if failed:
        raise failed[0]
