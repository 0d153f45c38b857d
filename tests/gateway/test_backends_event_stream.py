from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.backends import event_stream
from gateway.backends.event_stream import EventStream, EventTooLarge


def payloads(*chunks: bytes) -> list[bytes]:
    stream = EventStream()
    return [payload for chunk in chunks for payload in stream.feed(chunk)]


def test_an_event_ends_with_an_empty_line() -> None:
    assert payloads(b"data: a\n") == []
    assert payloads(b"data: a\n", b"\n") == [b"a"]


def test_several_data_lines_are_joined_by_newlines() -> None:
    assert payloads(b"data: a\ndata:b\ndata\n\n") == [b"a\nb\n"]


def test_comments_ids_and_names_are_passed_over() -> None:
    assert payloads(b": hi\n\nevent: x\nid: 1\nretry: 2\ndata: a\n\n: bye\n\n") == [b"a"]


def test_only_one_space_after_the_colon_belongs_to_the_format() -> None:
    assert payloads(b"data:  a\n\n") == [b" a"]


def test_a_byte_order_mark_is_ignored() -> None:
    assert payloads(b"\xef", b"\xbb\xbfdata: a\n\n") == [b"a"]


def test_an_event_without_an_end_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_stream, "MAX_EVENT_BYTES", 100)
    with pytest.raises(EventTooLarge):
        payloads(b"data: " + b"x" * 101)


TEXTS = st.lists(
    st.text(st.characters(exclude_characters="\r\n", exclude_categories=("Cs",))), min_size=1
)


@given(TEXTS, st.sampled_from([b"\n", b"\r\n", b"\r"]), st.lists(st.integers(1, 9), min_size=1))
def test_text_survives_any_chunking_and_line_end(
    texts: list[str], line_end: bytes, sizes: list[int]
) -> None:
    data = b"".join(b"data: " + text.encode() + line_end * 2 for text in texts)
    # What follows a final CR decides whether it was half of a CRLF: give it something to follow.
    data += b":" + line_end
    chunks, at, turn = [], 0, 0
    while at < len(data):
        size = sizes[turn % len(sizes)]
        chunks.append(data[at : at + size])
        at, turn = at + size, turn + 1
    assert payloads(*chunks) == [text.encode() for text in texts]
