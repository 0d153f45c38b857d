"""How long an upstream asks to be left alone, by its headers."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime


def retry_after_s(headers: Mapping[str, str], now: datetime) -> float | None:
    """Return how long an upstream asks to be left alone, None where it does not say.

    Source: RFC 9110, section 10.2.3 (seconds or a date); `retry-after-ms` is OpenAI's.
    """
    text = headers.get("retry-after-ms")
    if text is not None:
        wait_s = _seconds(text)
        if wait_s is not None:
            return wait_s / 1000
    text = headers.get("retry-after")
    if text is None:
        return None
    wait_s = _seconds(text)
    if wait_s is not None:
        return wait_s
    try:
        at = parsedate_to_datetime(text)
    except ValueError:
        return None
    at = at if at.tzinfo else at.replace(tzinfo=UTC)
    return max(0.0, (at - now).total_seconds())


def _seconds(text: str) -> float | None:
    try:
        wait_s = float(text)
    except ValueError:
        return None
    return wait_s if 0 <= wait_s < 1e9 else None
