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
