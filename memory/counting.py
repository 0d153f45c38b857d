"""How many tokens a message takes, by the counter of the model that will read it."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import orjson

from memory.conversation import Message

MESSAGE_TOKENS = 6
"""Role markers around each message, from above: ChatML and Llama 3 take 5, OpenAI counts 3."""
REPLY_TOKENS = 3
"""The opening of the reply that every prompt ends with."""
PART_TOKENS = 1100
"""A conservative price of a content part that is not text, an image at high detail."""

_LONGEST_CACHED_CHARACTERS = 20_000


class TokenCounter:
    """Counts texts and messages with a given counter, remembering short texts.

    Args:
        count_tokens: the tokens of a text by the model's own tokenizer, or a cautious estimate.
    """

    def __init__(self, count_tokens: Callable[[str], int]) -> None:
        self._count = count_tokens
        self._remembered = lru_cache(maxsize=32_768)(count_tokens)

    def text(self, text: str) -> int:
        """Return the tokens of a text."""
        if len(text) > _LONGEST_CACHED_CHARACTERS:
            return self._count(text)
        return self._remembered(text) if text else 0

    def message(self, message: Message) -> int:
        """Return the tokens of a message with its markers, calls and parts."""
        tokens = MESSAGE_TOKENS + self.text(message.text)
        if message.name:
            tokens += 1 + self.text(message.name)
        if message.tool_calls:
            tokens += self.text(orjson.dumps(message.tool_calls).decode())
        if message.tool_call_id:
            tokens += self.text(message.tool_call_id)
        if message.extra:
            tokens += self.text(orjson.dumps(dict(message.extra), default=str).decode())
        if isinstance(message.content, list):
            others = sum(1 for part in message.content if part.get("type") != "text")
            tokens += PART_TOKENS * others
        return tokens
