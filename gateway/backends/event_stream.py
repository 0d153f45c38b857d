"""EventStream: bytes of server-sent events in, `data` payloads out, however they are chunked.

Source: WHATWG HTML, section "Server-sent events", "Interpreting an event stream".
"""

from __future__ import annotations

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
MAX_EVENT_BYTES = 16 * 1024 * 1024


class EventTooLarge(ValueError):
    """One event grew past MAX_EVENT_BYTES."""


class EventStream:
    """An incremental parser that keeps only what is incomplete.

    Comments, ids, retry times and event names are passed over: OpenAI's protocol says everything
    in `data`. Several data lines of one event are joined by newlines.
    """

    def __init__(self) -> None:
        self._rest = b""
        self._data: list[bytes] = []
        self._n_data_bytes = 0
        self._is_first = True

    def feed(self, chunk: bytes) -> list[bytes]:
        """Return the payloads of the events that this chunk completes, in order.

        Raises:
            EventTooLarge: an event has no end within MAX_EVENT_BYTES.
        """
        text = self._rest + chunk if self._rest else chunk
        if self._is_first:
            if len(text) < 3 and _BYTE_ORDER_MARK.startswith(text):
                self._rest = text
                return []
            self._is_first = False
            text = text.removeprefix(_BYTE_ORDER_MARK)
        if b"\r" in text:
            # A CR at the very end may be half of a CRLF: it waits for the next chunk.
            text, held = (text[:-1], b"\r") if text.endswith(b"\r") else (text, b"")
            text = text.replace(b"\r\n", b"\n").replace(b"\r", b"\n") + held
        *lines, self._rest = text.split(b"\n")
        if len(self._rest) + self._n_data_bytes > MAX_EVENT_BYTES:
            raise EventTooLarge(f"an event is larger than {MAX_EVENT_BYTES} bytes")
        return self._payloads_of(lines)

    def _payloads_of(self, lines: list[bytes]) -> list[bytes]:
        payloads: list[bytes] = []
        data = self._data
        for line in lines:
            if line.startswith(b"data:"):
                value = line[6:] if line.startswith(b"data: ") else line[5:]
                data.append(value)
                self._n_data_bytes += len(value)
            elif not line:
                if data:
                    payloads.append(data[0] if len(data) == 1 else b"\n".join(data))
                    data.clear()
                    self._n_data_bytes = 0
            elif line == b"data":
                data.append(b"")
        return payloads
