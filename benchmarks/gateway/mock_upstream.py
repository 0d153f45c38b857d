"""An OpenAI-compatible server that costs next to nothing: canned answers from a raw protocol.

Run as `python -m benchmarks.gateway.mock_upstream --port 9100`. It reads no JSON: a body that holds
`"stream":true` (with or without a space) gets a stream, any other a whole answer. Answers say what
was configured: so many tokens, so long apart.
"""

from __future__ import annotations

import argparse
import asyncio

import httptools
import orjson

WORDS = ("steady ", "rain ", "over ", "the ", "quiet ", "harbour ", "tonight ", "again ")


def reply_body(n_tokens: int) -> bytes:
    """Return a whole HTTP response with a chat completion of so many tokens."""
    text = "".join(WORDS[i % len(WORDS)] for i in range(n_tokens))
    body = orjson.dumps(
        {
            "id": "chatcmpl-mock",
            "object": "chat.completion",
            "created": 1767225600,
            "model": "mock",
            "choices": [
                {
                    "index": 0,
                    "message": {"role": "assistant", "content": text},
                    "finish_reason": "stop",
                }
            ],
            "usage": usage(n_tokens),
        }
    )
    head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
    return head % len(body) + body


def usage(n_tokens: int) -> dict[str, int]:
    """Return the usage that every answer reports."""
    return {"prompt_tokens": 100, "completion_tokens": n_tokens, "total_tokens": 100 + n_tokens}


def chunk(delta: dict[str, str], finish_reason: str | None = None) -> bytes:
    """Return one SSE frame of a chunked response."""
    choice = {"index": 0, "delta": delta, "finish_reason": finish_reason}
    return frame(
        {"id": "chatcmpl-mock", "object": "chat.completion.chunk", "created": 1767225600}
        | {"model": "mock", "choices": [choice]}
    )


def frame(payload: object) -> bytes:
    """Return a payload as one SSE event inside one HTTP chunk."""
    data = payload if isinstance(payload, bytes) else orjson.dumps(payload)
    event = b"data: " + data + b"\n\n"
    return b"%x\r\n%s\r\n" % (len(event), event)


STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\n"
    b"transfer-encoding: chunked\r\n\r\n"
)


def stream_frames(n_tokens: int) -> list[bytes]:
    """Return the frames of a whole stream, in order."""
    frames = [chunk({"role": "assistant", "content": ""})]
    frames += [chunk({"content": WORDS[i % len(WORDS)]}) for i in range(n_tokens)]
    frames.append(chunk({}, "stop"))
    last = {"id": "chatcmpl-mock", "object": "chat.completion.chunk", "created": 1767225600}
    frames.append(frame(last | {"model": "mock", "choices": [], "usage": usage(n_tokens)}))
    frames.append(frame(b"[DONE]") + b"0\r\n\r\n")
    return frames


class Upstream(asyncio.Protocol):
    """One connection; answers requests one after another."""

    def __init__(self, whole: bytes, frames: list[bytes], delay_s: float) -> None:
        self._whole = whole
        self._frames = frames
        self._burst = STREAM_HEAD + b"".join(frames)
        self._delay_s = delay_s
        self._parser = httptools.HttpRequestParser(self)
        self._body: list[bytes] = []
        self._transport: asyncio.Transport | None = None
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the connection."""
        self._transport = transport  # type: ignore[assignment]

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop a stream that nobody reads."""
        if self._timer is not None:
            self._timer.cancel()

    def data_received(self, data: bytes) -> None:
        """Feed the parser."""
        self._parser.feed_data(data)

    def on_message_begin(self) -> None:
        """Begin a request."""
        self._body.clear()

    def on_body(self, body: bytes) -> None:
        """Keep a part of the body."""
        self._body.append(body)

    def on_message_complete(self) -> None:
        """Answer."""
        assert self._transport is not None
        body = b"".join(self._body)
        if b'"stream":true' not in body and b'"stream": true' not in body:
            self._transport.write(self._whole)
        elif self._delay_s:
            self._transport.write(STREAM_HEAD)
            self._send_from(0)
        else:
            self._transport.write(self._burst)

    def _send_from(self, index: int) -> None:
        assert self._transport is not None
        self._transport.write(self._frames[index])
        if index + 1 < len(self._frames):
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(self._delay_s, self._send_from, index + 1)


async def serve(host: str, port: int, n_tokens: int, delay_s: float) -> None:
    """Serve until cancelled."""
    whole, frames = reply_body(n_tokens), stream_frames(n_tokens)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Upstream(whole, frames, delay_s), host, port)
    async with server:
        await server.serve_forever()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--tokens", type=int, default=60)
    parser.add_argument("--delay-ms", type=float, default=0.0, help="between tokens of a stream")
    options = parser.parse_args()
    asyncio.run(serve(options.host, options.port, options.tokens, options.delay_ms / 1000))


if __name__ == "__main__":
    main()
