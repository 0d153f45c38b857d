"""Providers with a wire format of their own, through litellm.

litellm is an extra, and slow to import: it is imported in a worker thread by the first call, and
never at all in a gateway that configures no such backend. Its answers are read as the OpenAI
objects that they imitate.
"""

from __future__ import annotations

import asyncio
import importlib
import logging
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from gateway.backends.base import Call, ReplyDelta, ReplyEnd
from gateway.backends.chunks import ReplyReader, error_of
from gateway.errors import (
    BackendBroken,
    BackendError,
    BackendTimeout,
    BackendUnavailable,
)

INSTALL_LINE = "pip install 'turnwise[providers]'"
# Source: litellm's security notice of March 2026: these two releases carried a credential thief.
REFUSED_VERSIONS = frozenset({"1.82.7", "1.82.8"})
# Those whose `usage.cost` is what they charge. To streams of others, and to streams alone, litellm
# adds what its own price list makes of the tokens, which would outrank the configured price.
_TELL_THEIR_CHARGE = ("openrouter/", "perplexity/")
log = logging.getLogger("turnwise.backends")


class LitellmBackend:
    """Any provider litellm speaks; the model's upstream name starts with the provider's.

    Args:
        name: the backend's name in the configuration.
        api_key: the provider's key; None leaves the search to litellm.
        base_url: another address of the provider's API, None for its own.
        keep_offline: called before the import, to keep litellm from downloading its price list.
        installed_version: says which litellm is installed.
    """

    def __init__(
        self,
        name: str,
        *,
        api_key: str | None = None,
        base_url: str | None = None,
        keep_offline: Callable[[], None],
        installed_version: Callable[[str], str] = version,
    ) -> None:
        self.name = name
        self._api_key = api_key
        self._base_url = base_url
        self._keep_offline = keep_offline
        self._installed_version = installed_version
        self._litellm: Any = None
        self._importing = asyncio.Lock()

    async def close(self) -> None:
        """Close litellm's own connections, if it was ever used."""
        litellm, self._litellm = self._litellm, None
        if litellm is not None:
            await litellm.close_litellm_async_clients()

    async def stream(self, call: Call) -> AsyncGenerator[ReplyDelta | ReplyEnd, None]:
        """Yield the reply's deltas and then one ReplyEnd; see `Backend`."""
        litellm = self._litellm or await self._load()
        reader = ReplyReader(self.name)
        started_s = asyncio.get_running_loop().time()
        answer = await self._guarded(
            litellm.acompletion(**self._arguments(call)),
            reader,
            started_s + (call.first_token_s if call.is_stream else call.total_s),
        )
        if not call.is_stream:
            for delta in reader.whole(_plain(answer, call.model)):
                yield delta
            yield reader.end()
            return
        async with aclosing(answer) as chunks:
            deadline_s = started_s + call.first_token_s
            while True:
                chunk = await self._guarded(anext(chunks, None), reader, deadline_s)
                if chunk is None:
                    break
                for delta in reader.deltas(_plain(chunk, call.model)):
                    yield delta
                now_s = asyncio.get_running_loop().time()
                deadline_s = min(now_s + call.idle_s, started_s + call.total_s)
        if not reader.is_complete:
            raise BackendBroken(self.name, f"{self.name} ended the stream before the answer's end.")
        yield reader.end()

    def _arguments(self, call: Call) -> dict[str, Any]:
        arguments: dict[str, Any] = {
            **call.params,
            "model": call.model,
            "messages": [dict(message) for message in call.messages],
            "timeout": call.total_s,
            "num_retries": 0,
            "max_retries": 0,
        }
        if self._api_key is not None:
            arguments["api_key"] = self._api_key
        if self._base_url is not None:
            arguments["base_url"] = self._base_url
        if call.is_stream:
            arguments["stream"] = True
            arguments["stream_options"] = {"include_usage": True}
        return arguments

    async def _guarded(self, work: Any, reader: ReplyReader, deadline_s: float) -> Any:
        """Await litellm's work until the deadline, translating whatever it raises."""
        started_s = asyncio.get_running_loop().time()
        try:
            async with asyncio.timeout_at(deadline_s):
                return await work
        except TimeoutError as error:
            wait_s = max(0.0, deadline_s - started_s)
            text = f"{self.name} said nothing within {wait_s:.3g} s."
            raise BackendTimeout(self.name, text) from error
        except Exception as error:  # litellm lets the errors of many providers' SDKs through
            raise self._error_of(error, has_begun=bool(reader.choices)) from error

    def _error_of(self, error: Exception, *, has_begun: bool) -> BackendError:
        if isinstance(error, self._litellm.Timeout):
            return BackendTimeout(self.name, f"{self.name} did not answer in time.")
        if has_begun:
            text = f"{self.name} failed in the middle of the answer: {type(error).__name__}"
            return BackendBroken(self.name, text)
        status = getattr(error, "status_code", None)
        if isinstance(error, self._litellm.APIConnectionError) or not isinstance(status, int):
            text = f"{self.name} cannot be reached: {type(error).__name__}"
            return BackendUnavailable(self.name, text)
        facts = {
            "message": getattr(error, "message", str(error)),
            "param": getattr(error, "param", None),
            "code": getattr(error, "code", None),
        }
        if isinstance(error, self._litellm.ContextWindowExceededError):
            facts["code"] = "context_length_exceeded"
        return error_of(
            self.name, facts, status=status, retry_after_s=_retry_after_s(error, status)
        )

    async def _load(self) -> Any:
        async with self._importing:
            if self._litellm is None:
                self._litellm = await asyncio.to_thread(self._import)
        return self._litellm

    def _import(self) -> Any:
        """Import litellm; runs in a worker thread.

        Raises:
            BackendUnavailable: it is missing, or a release that must not be run.
        """
        try:
            found = self._installed_version("litellm")
        except PackageNotFoundError as error:
            text = f"{self.name} needs litellm: {INSTALL_LINE}"
            raise BackendUnavailable(self.name, text) from error
        if found in REFUSED_VERSIONS:
            text = f"litellm {found} is a compromised release and is not run; {INSTALL_LINE}"
            raise BackendUnavailable(self.name, text)
        self._keep_offline()
        litellm: Any = importlib.import_module("litellm")
        litellm.suppress_debug_info = True
        litellm.telemetry = False
        log.info("litellm %s serves %s", found, self.name)
        return litellm


def _plain(answer: Any, model: str) -> Any:
    """Return litellm's object as the plain JSON object that it imitates."""
    plain = answer.model_dump(exclude_none=True)
    usage = getattr(answer, "usage", None)
    if usage is not None and "usage" not in plain:
        plain["usage"] = usage.model_dump(exclude_none=True)
    if isinstance(plain.get("usage"), dict) and not model.startswith(_TELL_THEIR_CHARGE):
        plain["usage"].pop("cost", None)
    return plain


def _retry_after_s(error: Exception, status: int) -> float | None:
    from datetime import UTC, datetime

    from gateway.backends.retry_after import retry_after_s

    headers = getattr(getattr(error, "response", None), "headers", None)
    if status not in (429, 503, 529) or headers is None:
        return None
    return retry_after_s(headers, datetime.now(UTC))
