"""How many tokens a text costs: exactly where the model's tokenizer is local, else from above."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import orjson

from memory.conversation import Message

TokenCounter = Callable[[str], int]

# What a chat template adds around each message, and around the whole; measured from above.
MESSAGE_OVERHEAD_TOKENS = 6
_IMAGE_TOKENS = 1100  # Source: OpenAI's vision guide, a high-detail 1024x1024 image costs 765


def estimate_tokens(text: str) -> int:
    """Return a count that real tokenizers stay below for natural text in any script.

    Latin text is taken at three characters a token. Beyond ASCII each UTF-8 continuation byte
    adds half a token, which makes a Devanagari or Tamil character one whole token: what the
    vocabularies of 2023 need, and more than those of 2025 do.
    """
    n_chars = len(text)
    n_beyond = (len(text.encode("utf-8", "replace")) - n_chars) // 2
    return (max(0, n_chars - n_beyond) + 2) // 3 + n_beyond


def local_counter(tokenizer_json: Path) -> TokenCounter:
    """Return the exact counter of a `tokenizer.json` file."""
    # Only here: a gateway without a local model starts 4 MB smaller.
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(tokenizer_json))

    def count(text: str) -> int:
        return len(tokenizer.encode(text, add_special_tokens=False).ids)

    return count


def count_message(message: Message, count: TokenCounter) -> int:
    """Return the tokens of one message with its template overhead, tool calls and images."""
    tokens = MESSAGE_OVERHEAD_TOKENS + count(message.text)
    if message.tool_calls:
        tokens += count(orjson.dumps(list(message.tool_calls)).decode())
    if isinstance(message.content, list):
        tokens += sum(_IMAGE_TOKENS for part in message.content if part.get("type") == "image_url")
    return tokens


def count_messages(messages: Iterable[Message], count: TokenCounter, tools: Any = None) -> int:
    """Return the tokens of a whole prompt, tool declarations included."""
    tokens = sum(count_message(message, count) for message in messages)
    return tokens + (count(orjson.dumps(tools).decode()) if tools else 0)
