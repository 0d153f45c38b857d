"""The lean path: any server that speaks OpenAI's chat completions, over one shared aiohttp session.

Owns the HTTP exchange and its deadlines. What the objects mean is `chunks.py`'s business, how they
are framed `event_stream.py`'s. An SDK would cost many times the CPU of the whole turn.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Mapping
from contextlib import aclosing
from datetime import UTC, datetime
from typing import Any

import aiohttp
import orjson
from multidict import CIMultiDict
from yarl import URL

from gateway.backends.base import Call, ReplyDelta, ReplyEnd
from gateway.backends.chunks import ReplyReader, error_of
from gateway.backends.event_stream import EventStream, EventTooLarge
from gateway.backends.load_probe import LoadProbe
from gateway.backends.retry import Retry
from gateway.backends.retry_after import retry_after_s
from gateway.backends.silence import SilenceWatch
from gateway.errors import BackendBroken, BackendError, BackendTimeout, BackendUnavailable
from router.request import Load

SCOPE_HEADER = "x-turnwise-scope"
TARGET_HEADER = "x-turnwise-target-ttft-ms"
_MAX_ERROR_BYTES = 64 * 1024
_DRAIN_S = 0.05
_KEEP_ALIVE_S = 30.0
# A kept connection that the server closed just as we wrote to it fails this fast; only then is the
# request sent once more, because no server has worked on it.
_STALE_S = 0.1
_BROKEN_CONNECTION = (aiohttp.ClientError, OSError)


@contextlib.asynccontextmanager
async def http_session(
    *, connect_s: float = 3.0, max_connections: int = 1000
) -> AsyncIterator[aiohttp.ClientSession]:
    """Yield the session that all backends share, and close it afterwards.

    Args:
        connect_s: how long looking up and connecting may take, in seconds.
        max_connections: how many connections may be open at once, kept ones included.
    """
    connector = aiohttp.TCPConnector(
        limit=max_connections, keepalive_timeout=_KEEP_ALIVE_S, ttl_dns_cache=60
    )
    session = aiohttp.ClientSession(
        connector=connector,
        timeout=aiohttp.ClientTimeout(total=None, connect=None, sock_connect=connect_s),
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=True,
        trust_env=False,
        read_bufsize=2**17,
    )
    async with session:
        yield session
    # TLS connections need one more turn of the loop to say goodbye.
    await asyncio.sleep(0)


class OpenAIBackend:
    """An OpenAI-compatible server; many calls at once share its connections.

    Args:
        name: the backend's name in the configuration, for messages.
        base_url: up to and including `/v1`.
        session: from `http_session`; it belongs to whoever opened it.
        api_key: sent as a bearer token when given.
        sends_scope: whether the server is our own engine, which wants `x-turnwise-scope`.
        headers: further headers of every request.
        probe: tells how busy the server is; whoever opened it closes it.
        retry: when the server is asked again; None for never.
    """

    def __init__(
        self,
        name: str,
        base_url: str,
        *,
        session: aiohttp.ClientSession,
        api_key: str | None = None,
        sends_scope: bool = False,
        headers: Mapping[str, str] | None = None,
        probe: LoadProbe | None = None,
        retry: Retry | None = None,
    ) -> None:
        self.name = name
        self._retry = retry
        self._probe = probe
        self._url = URL(f"{base_url.rstrip('/')}/chat/completions")
        self._session = session
        self._sends_scope = sends_scope
        self._headers = CIMultiDict({"Content-Type": "application/json", **(headers or {})})
        if api_key:
            self._headers["Authorization"] = f"Bearer {api_key}"

    async def close(self) -> None:
        """Do nothing: the session is shared and closed by its owner."""

    def load(self) -> Load:
        """Return how busy the server says it is."""
        return Load() if self._probe is None else self._probe.load()

    async def stream(self, call: Call) -> AsyncGenerator[ReplyDelta | ReplyEnd, None]:
        """Yield the reply's deltas and then one ReplyEnd; see `Backend`."""
        reader = ReplyReader(self.name)
        started_s = asyncio.get_running_loop().time()
        if not call.is_stream:
            for delta in reader.whole(await self._whole(call, started_s)):
                yield delta
            yield reader.end()
            return
        response = await self._begun(call, started_s)
        try:
            if response.content_type != "application/json":
                async with aclosing(self._deltas(call, response, reader, started_s)) as deltas:
                    async for delta in deltas:
                        yield delta
            else:
                for delta in reader.whole(await self._rest(response, started_s + call.total_s)):
                    yield delta
            yield reader.end()
            await _drain(response)
        finally:
            _let_go(response)

    # One answer that is not streamed, under one deadline.

    async def _whole(self, call: Call, started_s: float) -> Any:
        response: aiohttp.ClientResponse | None = None
        try:
            async with asyncio.timeout_at(started_s + call.total_s):
                response = await self._send(call, started_s + call.total_s)
                return self._json_of(await response.read())
        except TimeoutError as error:
            raise self._timeout_of(error, call.total_s) from error
        except _BROKEN_CONNECTION as error:
            reason = f"{self.name} {_reason_of(error)}"
            failure = BackendUnavailable if response is None else BackendBroken
            raise failure(self.name, reason) from error
        finally:
            if response is not None:
                _let_go(response)

    # One request: out, and its headers back.

    async def _begun(self, call: Call, started_s: float) -> aiohttp.ClientResponse:
        try:
            async with asyncio.timeout_at(started_s + call.first_token_s):
                return await self._send(call, started_s + call.first_token_s)
        except TimeoutError as error:
            raise self._timeout_of(error, call.first_token_s) from error
        except _BROKEN_CONNECTION as error:
            raise BackendUnavailable(self.name, f"{self.name} {_reason_of(error)}") from error

    async def _send(self, call: Call, deadline_s: float) -> aiohttp.ClientResponse:
        data, headers = orjson.dumps(_body_of(call), default=_plain), self._headers_of(call)
        try:
            return await self._ask(data, headers)
        except (BackendError, aiohttp.ClientConnectorError) as error:
            if not await self._has_waited(error, deadline_s):
                raise
        return await self._ask(data, headers)

    async def _has_waited(self, error: Exception, deadline_s: float) -> bool:
        """Wait before a second request; return False at once where none is worth it."""
        if self._retry is None:
            return False
        pause_s = self._retry.pause_s(error, deadline_s - asyncio.get_running_loop().time())
        if pause_s is None:
            return False
        self._retry.on_retry(self.name)
        await asyncio.sleep(pause_s)
        return True

    async def _ask(self, data: bytes, headers: CIMultiDict[str]) -> aiohttp.ClientResponse:
        loop = asyncio.get_running_loop()
        sent_s = loop.time()
        try:
            response = await self._post(data, headers)
        except (aiohttp.ServerDisconnectedError, ConnectionResetError):
            if loop.time() - sent_s > _STALE_S:
                raise
            response = await self._post(data, headers)
        if response.status != 200:
            raise await self._error_of(response)
        return response

    def _post(self, data: bytes, headers: CIMultiDict[str]) -> Awaitable[aiohttp.ClientResponse]:
        return self._session.post(self._url, data=data, headers=headers, allow_redirects=False)

    def _headers_of(self, call: Call) -> CIMultiDict[str]:
        if not self._sends_scope:
            return self._headers
        headers = self._headers.copy()
        headers[SCOPE_HEADER] = call.scope
        if call.target_ttft_ms is not None:
            headers[TARGET_HEADER] = str(call.target_ttft_ms)
        return headers

    async def _error_of(self, response: aiohttp.ClientResponse) -> BackendError:
        async with response:
            text = await response.content.read(_MAX_ERROR_BYTES)
        try:
            body = orjson.loads(text)
        except orjson.JSONDecodeError:
            body = None
        # vLLM and others put the error's fields at the top level; Ollama sends a string.
        error = (body.get("error") or body) if isinstance(body, dict) else response.reason
        return error_of(
            self.name,
            error,
            status=response.status,
            retry_after_s=retry_after_s(response.headers, datetime.now(UTC)),
        )

    async def _rest(self, response: aiohttp.ClientResponse, deadline_s: float) -> Any:
        """Return the body of a server that was asked to stream and does not."""
        try:
            async with asyncio.timeout_at(deadline_s):
                return self._json_of(await response.read())
        except TimeoutError as error:
            raise self._timeout_of(error, None) from error
        except _BROKEN_CONNECTION as error:
            raise BackendBroken(self.name, f"{self.name} {_reason_of(error)}") from error

    def _json_of(self, text: bytes) -> Any:
        try:
            return orjson.loads(text)
        except orjson.JSONDecodeError as error:
            raise BackendBroken(self.name, f"{self.name}'s answer is not JSON.") from error

    # One stream: events in, deltas out.

    async def _deltas(
        self,
        call: Call,
        response: aiohttp.ClientResponse,
        reader: ReplyReader,
        started_s: float,
    ) -> AsyncGenerator[ReplyDelta, None]:
        events = EventStream()
        watch = SilenceWatch(response, call, started_s)
        try:
            while not reader.is_done:
                watch.waits()
                chunk = await response.content.readany()
                if not chunk:
                    break
                watch.heard()
                for delta in reader.batch(events.feed(chunk)):
                    yield delta
                watch.has_begun = reader.has_begun
        except (*_BROKEN_CONNECTION, EventTooLarge, orjson.JSONDecodeError) as error:
            if watch.expired_after_s is not None:
                raise self._timeout_of(error, watch.expired_after_s) from error
            if not reader.choices and isinstance(error, _BROKEN_CONNECTION):
                raise BackendUnavailable(self.name, f"{self.name} {_reason_of(error)}") from error
            raise BackendBroken(self.name, f"{self.name} {_reason_of(error)}") from error
        finally:
            watch.close()
        if not reader.is_complete:
            raise BackendBroken(self.name, f"{self.name} ended the stream before the answer's end.")

    def _timeout_of(self, error: BaseException, wait_s: float | None) -> BackendTimeout:
        if isinstance(error, aiohttp.ConnectionTimeoutError):
            return BackendTimeout(self.name, f"{self.name} does not accept connections.")
        within = "in time" if wait_s is None else f"within {wait_s:g} s"
        return BackendTimeout(self.name, f"{self.name} said nothing {within}.")


def _body_of(call: Call) -> dict[str, Any]:
    body = {"model": call.model, "messages": call.messages, **call.params}
    body.pop("stream_options", None)
    if call.is_stream:
        body["stream"] = True
        # Asked for whatever the caller wants: the ledger needs it.
        body["stream_options"] = {"include_usage": True}
    return body


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"{type(value).__name__} is not JSON")


def _let_go(response: aiohttp.ClientResponse) -> None:
    """Give the connection back, or close it where the answer goes on: that stops generation."""
    response.release() if response.content.at_eof() else response.close()


async def _drain(response: aiohttp.ClientResponse) -> None:
    """Read what follows the answer, so that the connection can be kept; normally nothing."""
    if response.content.at_eof():
        return
    with contextlib.suppress(TimeoutError, *_BROKEN_CONNECTION):
        async with asyncio.timeout(_DRAIN_S):
            while not response.content.at_eof():
                await response.content.readany()


def _reason_of(error: BaseException) -> str:
    """Return what happened in words that hold nothing of the request."""
    match error:
        case aiohttp.ClientConnectorDNSError():
            return "cannot be found: its host name does not resolve."
        case aiohttp.ClientConnectorCertificateError() | aiohttp.ClientSSLError():
            return "has a certificate that is not trusted."
        case aiohttp.ClientConnectorError():
            return "refuses connections."
        case orjson.JSONDecodeError():
            return "sent an event that is not JSON."
        case EventTooLarge():
            return "sent an event that is too large."
    return "closed the connection."
