"""ToolModels: which model asked for a tool, so that the model that asked gets the result.

Kept in this process, bounded: where another worker takes the result, it is routed by its score.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

from memory.conversation import Message


class ToolModels:
    """The models behind the newest tool calls, by tenant and call id."""

    def __init__(self, most: int = 20_000) -> None:
        self._most = most
        self._models: OrderedDict[tuple[str, str], str] = OrderedDict()

    def remember(
        self, tenant: str, choices: Sequence[Mapping[str, Any]], model: str | None
    ) -> None:
        """Note the model that made these choices where they call tools."""
        if model is None:
            return
        for choice in choices:
            for call in choice["message"].get("tool_calls") or ():
                if isinstance(call.get("id"), str):
                    self._models[tenant, call["id"]] = model
        while len(self._models) > self._most:
            self._models.popitem(last=False)

    def behind(self, tenant: str, messages: Sequence[Message]) -> str | None:
        """Return the model whose tool's result comes last, None where it does not or is unknown."""
        if not messages or messages[-1].role != "tool":
            return None
        return self._models.get((tenant, messages[-1].tool_call_id or ""))
