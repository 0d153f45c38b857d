"""Vector sets of Redis 8: which documents of a very long conversation a question may mean.

One set a conversation, of the documents' mean vectors, so that no other conversation is ever looked
at. The vectors that are compared in full stay in the list beside the log; only those of the found
documents and their neighbours are fetched. Knows no items and no text.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from redis.exceptions import ResponseError

from memory.embedder import NOTHING, Encoding
from memory.keys import conversation_keys
from memory.replies import Loaded
from memory.scripts import RedisHandle, script_of
from memory.vectors import TokenVectors

_BATCH_DOCUMENTS = 256
_AT_ONCE = 8
"""Documents added by one script: each takes Redis about a millisecond, and everybody waits."""
_OF_EACH_TOKEN = 200
_CANDIDATES = 200


@dataclass(frozen=True, slots=True)
class Found:
    """Documents that may be meant, with their neighbours, and their vectors.

    `documents` are ascending document numbers, one for each document of `vectors`; -1 marks an
    empty one that parts two stretches which are no neighbours.
    """

    documents: NDArray[np.intp]
    vectors: TokenVectors

    def scores(self, query: Encoding, n: int) -> NDArray[np.float32]:
        """Return TokenVectors.scores() of the found documents, 0 for the rest: float32 [n]."""
        scores = np.zeros(n, np.float32)
        known = (self.documents >= 0) & (self.documents < n)
        scores[self.documents[known]] = self.vectors.scores(query)[known]
        return scores


class VectorSets:
    """Mean vectors of conversations in vector sets, where the server has such.

    Args:
        redis: a handle with `decode_responses=False`.
        revision: the encoder's; what another one made is never searched.
        dimensions: the length of one vector.
    """

    def __init__(self, redis: Any, revision: str, dimensions: int) -> None:
        self._redis: RedisHandle = redis
        self._ask = redis.execute_command
        self._revision = revision
        self._dimensions = dimensions
        self._put = script_of(redis, "set")
        self._is_available: bool | None = None

    async def is_available(self) -> bool:
        """Return whether the server has vector sets (Redis 8); asked once."""
        if self._is_available is None:
            try:
                await self._ask("VCARD", "tw:{vector-sets}:none")
                self._is_available = True
            except ResponseError:  # an unknown command
                self._is_available = False
        return self._is_available

    async def catch_up(self, loaded: Loaded) -> int:
        """Bring up to 256 more stored documents into the set; return how many it speaks for.

        -1 means that the conversation or the encoder is another by now.
        """
        keys = conversation_keys(loaded.conversation.tenant, loaded.conversation.id)
        state = [loaded.generation, loaded.epoch, self._revision]
        args: list[str | bytes | int] = [*state, 0]
        set_keys = [keys.meta, keys.vectors, keys.vector_set]
        first = int(await self._put(keys=set_keys, args=args))
        if first < 0:
            return first
        (rows,) = await self._rows(keys.vectors, [(first, first + _BATCH_DOCUMENTS - 1)])
        n_in_set = first
        for at in range(0, len(rows), _AT_ONCE):
            args = [*state, first + at, *(_mean(row) for row in rows[at : at + _AT_ONCE])]
            n_in_set = int(await self._put(keys=set_keys, args=args))
        return n_in_set

    async def find(self, loaded: Loaded, query: Encoding, also: Iterable[int]) -> Found:
        """Return the documents nearest to the query's tokens, and others that are asked for.

        Args:
            loaded: which conversation.
            query: the query's encoding.
            also: documents to compare in full in any case.
        """
        keys = conversation_keys(loaded.conversation.tenant, loaded.conversation.id)
        near: dict[int, float] = defaultdict(float)
        async with self._redis.pipeline(transaction=False) as pipeline:
            for token in query.tokens:
                vector = (token.astype("<f4") / 127).tobytes()
                pipeline.execute_command(
                    "VSIM", keys.vector_set, "FP32", vector, "WITHSCORES", "COUNT", _OF_EACH_TOKEN
                )
            answers = await pipeline.execute()
        for answer in answers:
            for document, likeness in _pairs(answer):
                # Redis tells (1 + cosine) / 2; what points away counts for nothing.
                near[int(document)] += max(0.0, 2 * float(likeness) - 1)
        wanted = {*sorted(near, key=lambda document: -near[document])[:_CANDIDATES], *also}
        stretches = _stretches({d + by for d in wanted for by in (-1, 0, 1) if d + by >= 0})
        return self._found(stretches, await self._rows(keys.vectors, stretches))

    def _found(self, stretches: list[tuple[int, int]], rows: list[list[NDArray[np.int8]]]) -> Found:
        vectors, documents = TokenVectors(self._dimensions), list[int]()
        for (first, _), stretch in zip(stretches, rows, strict=True):
            for document, row in enumerate(stretch, first):
                vectors.add(row)
                documents.append(document)
            vectors.add(NOTHING)
            documents.append(-1)
        return Found(np.array(documents, np.intp), vectors)

    async def _rows(
        self, key: str, stretches: list[tuple[int, int]]
    ) -> list[list[NDArray[np.int8]]]:
        async with self._redis.pipeline(transaction=False) as pipeline:
            for first, last in stretches:
                pipeline.lrange(key, first, last)
            answers = await pipeline.execute()
        return [
            [np.frombuffer(row, np.int8).reshape(-1, self._dimensions) for row in answer]
            for answer in answers
        ]


def _pairs(answer: Any) -> Iterable[tuple[Any, Any]]:
    """Return what VSIM WITHSCORES found, as either protocol spells it."""
    if isinstance(answer, dict):
        return answer.items()
    return zip(answer[::2], answer[1::2], strict=True)


def _mean(row: NDArray[np.int8]) -> bytes:
    mean = row.astype(np.float32).mean(0)
    length = float(np.linalg.norm(mean))
    return (mean / length).astype("<f4").tobytes() if length else b""


def _stretches(documents: Iterable[int]) -> list[tuple[int, int]]:
    """Return the first and last of each run of documents that follow on each other."""
    runs: list[tuple[int, int]] = []
    for document in sorted(documents):
        if runs and document == runs[-1][1] + 1:
            runs[-1] = (runs[-1][0], document)
        else:
            runs.append((document, document))
    return runs
