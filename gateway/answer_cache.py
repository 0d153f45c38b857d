"""AnswerCache: whether a turn may be answered from the cache, and the replay of what was kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from gateway.backends.base import ReplyDelta
from gateway.turn import Turn
from memory.response_cache import ResponseCache
from memory.traces import of_end_user
from policies.policy import Policy
from policies.usage import Usage


@dataclass(frozen=True, slots=True)
class CachedAnswer:
    """An answer given before: its choices as OpenAI spells them, its usage and its model."""

    choices: Sequence[dict[str, Any]]
    usage: Usage
    model: str

    def deltas(self) -> list[ReplyDelta]:
        """Return the answer as the events a backend would have yielded."""
        deltas = []
        for choice in self.choices:
            message = choice["message"]
            fields = {k: v for k, v in message.items() if k not in ("role", "content")}
            deltas.append(
                ReplyDelta(
                    index=choice["index"],
                    content=message.get("content"),
                    fields=fields,
                    logprobs=choice.get("logprobs"),
                    finish_reason=choice["finish_reason"],
                )
            )
        return deltas


class AnswerCache:
    """The exact cache as one turn uses it; raises what Redis raises."""

    def __init__(self, cache: ResponseCache) -> None:
        self._cache = cache

    @staticmethod
    def is_open_to(turn: Turn, policy: Policy) -> bool:
        """Return whether the policy and the turn allow a stored answer.

        A named conversation changes with each turn and tool calls act on the world: both are
        always answered anew.
        """
        return (
            policy.cache.exact
            and turn.cache_mode != "off"
            and turn.conversation is None
            and not turn.params.get("tools")
        )

    @staticmethod
    def key_of(turn: Turn, tenant: str, policy: Policy, tier: str, model: str) -> str:
        """Return the key under which the answer of this turn is kept."""
        return ResponseCache.key_of(
            tenant,
            policy=policy.label,
            tier=tier,
            model=model,
            messages=turn.messages,
            params=turn.params,
        )

    async def get(self, key: str) -> CachedAnswer | None:
        """Return the stored answer, None when there is none."""
        stored = await self._cache.get(key)
        if stored is None:
            return None
        answer = orjson.loads(stored)
        return CachedAnswer(answer["choices"], Usage(**answer["usage"]), answer["model"])

    async def put(
        self, key: str, tenant: str, answer: CachedAnswer, ttl_s: int, end_user: str | None = None
    ) -> None:
        """Keep a complete answer, forgotten with its end user.

        One cut short by its length or a filter is not kept.
        """
        if any(choice["finish_reason"] != "stop" for choice in answer.choices):
            return
        stored = orjson.dumps(
            {
                "choices": answer.choices,
                "usage": answer.usage.to_json(),
                "model": answer.model,
            }
        )
        subjects = [of_end_user(end_user)] if end_user else []
        await self._cache.put(tenant, key, stored, ttl_s=ttl_s, subjects=subjects)
