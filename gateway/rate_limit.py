"""Requests per minute of a tenant, counted on Redis by the `limits` library.

Windows are whole minutes of the clock, so that the time of reset is known without asking. A fixed
window lets up to twice the limit through around its edge; that is the price of one round trip.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

from limits.aio.storage import RedisStorage
from redis.asyncio import Redis

from gateway.errors import RequestError

_WINDOW_S = 60


class RateLimiter:
    """Counts requests; refuses those past the limit of the running minute."""

    def __init__(self, redis: Redis, clock: Callable[[], datetime]) -> None:
        self._clock = clock
        options: dict[str, Any] = {"connection_pool": redis.connection_pool}
        self._storage = RedisStorage(
            "async+redis://localhost:6379", implementation="redispy", key_prefix="tw", **options
        )
        # The library would make a client of its own; ours carries the timeouts and the breaker.
        bridge: Any = self._storage.bridge
        bridge.storage = redis
        bridge.register_scripts()

    async def admit(self, tenant: str, requests_per_minute: int) -> Mapping[str, str]:
        """Return the `x-ratelimit-*` headers of an admitted request.

        Raises:
            RequestError: 429 with the same headers and `retry-after`.
            redis.exceptions.RedisError: when Redis does not answer.
        """
        now_s = self._clock().timestamp()
        window = int(now_s // _WINDOW_S)
        used = await self._storage.incr(f"{{t:{tenant}}}:rpm:{window}", 2 * _WINDOW_S)
        reset_s = max(1, round((window + 1) * _WINDOW_S - now_s))
        headers = {
            "x-ratelimit-limit-requests": str(requests_per_minute),
            "x-ratelimit-remaining-requests": str(max(0, requests_per_minute - used)),
            "x-ratelimit-reset-requests": f"{reset_s}s",
        }
        if used > requests_per_minute:
            raise RequestError(
                f"Rate limit reached: {requests_per_minute} requests per minute. "
                f"Please try again in {reset_s}s.",
                status=429,
                type="rate_limit_error",
                code="rate_limit_exceeded",
                headers={**headers, "retry-after": str(reset_s)},
            )
        return headers
