"""Requests and tokens per minute of a tenant, counted on Redis by the `limits` library.

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
from policies.policy import Limits

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

    async def admit(self, tenant: str, limits: Limits) -> Mapping[str, str]:
        """Count a request; return the `x-ratelimit-*` headers of an admitted one.

        Raises:
            RequestError: 429 with the same headers and `retry-after`.
            redis.exceptions.RedisError: when Redis does not answer.
        """
        headers: dict[str, str] = {}
        if limits.requests_per_minute is not None:
            await self._take(tenant, "requests", limits.requests_per_minute, 1, headers)
        if limits.tokens_per_minute is not None:
            # What was used so far decides; this turn's tokens are known when it is done.
            await self._take(tenant, "tokens", limits.tokens_per_minute, 0, headers)
        return headers

    async def count_tokens(self, tenant: str, tokens: int) -> None:
        """Count the tokens of a turn that is done.

        Raises:
            redis.exceptions.RedisError: when Redis does not answer.
        """
        window, _ = self._window()
        await self._storage.incr(self._key(tenant, "tokens", window), 2 * _WINDOW_S, tokens)

    async def _take(
        self, tenant: str, unit: str, limit: int, amount: int, headers: dict[str, str]
    ) -> None:
        window, reset_s = self._window()
        used = await self._storage.incr(self._key(tenant, unit, window), 2 * _WINDOW_S, amount)
        headers[f"x-ratelimit-limit-{unit}"] = str(limit)
        headers[f"x-ratelimit-remaining-{unit}"] = str(max(0, limit - used))
        headers[f"x-ratelimit-reset-{unit}"] = f"{reset_s}s"
        if used > limit or (amount == 0 and used == limit):
            raise RequestError(
                f"Rate limit reached: {limit} {unit} per minute. Please try again in {reset_s}s.",
                status=429,
                type="rate_limit_error",
                code="rate_limit_exceeded",
                headers={**headers, "retry-after": str(reset_s)},
            )

    def _window(self) -> tuple[int, int]:
        """Return the number of the running minute and the seconds until the next."""
        now_s = self._clock().timestamp()
        window = int(now_s // _WINDOW_S)
        return window, max(1, round((window + 1) * _WINDOW_S - now_s))

    @staticmethod
    def _key(tenant: str, unit: str, window: int) -> str:
        return f"{{t:{tenant}}}:rate:{unit}:{window}"
