"""From settings to a running memory: its encoder, its journal, its summaries.

Owns which concrete classes memory is made of in a gateway. Knows nothing of turns.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from contextlib import AsyncExitStack
from datetime import datetime
from pathlib import Path

from gateway.settings import Settings
from gateway.state import GuardedRedis
from gateway.telemetry import Degradations
from memory.embedder import DIMENSIONS, OnnxEmbedder
from memory.embedding_cache import EmbeddingCache
from memory.jobs import JobQueue
from memory.journal import Journal
from memory.memory import Memory
from memory.store import ConversationStore
from memory.summary_keeper import Complete, SummaryKeeper
from memory.vector_sets import VectorSets
from memory.vector_store import VectorStore


def open_encodings(
    settings: Settings, redis: GuardedRedis, degradations: Degradations, stack: AsyncExitStack
) -> EmbeddingCache | None:
    """Return the encodings of texts, None where there is no encoder; closed with the stack."""

    def failed(error: BaseException) -> None:
        degradations.failed("memory", error, "in the background")

    try:
        embedder = _embedder(settings)
    except FileNotFoundError as error:  # recall then goes by words alone
        failed(error)
        return None
    stack.callback(embedder.close)
    return EmbeddingCache(embedder, redis, failed)


async def open_memory(
    settings: Settings,
    redis: GuardedRedis,
    encodings: EmbeddingCache | None,
    complete: Complete,
    degradations: Degradations,
    stack: AsyncExitStack,
    *,
    clock: Callable[[], datetime],
) -> Memory:
    """Return the memory of conversations; `complete` asks a model for a summary."""

    def failed(error: BaseException) -> None:
        degradations.failed("memory", error, "in the background")

    vectors = sets = None
    if encodings is not None:
        vectors = VectorStore(redis, encodings.embedder.revision, DIMENSIONS)
        sets = VectorSets(redis, encodings.embedder.revision, DIMENSIONS)
    memory = Memory(
        ConversationStore(redis, clock, lambda: secrets.token_hex(16)),
        encodings=encodings,
        vectors=vectors,
        sets=sets,
        journal=Journal(settings.state_dir / "journal", secrets.token_hex(8)),
        summaries=SummaryKeeper(
            redis, JobQueue(redis, secrets.token_hex(8), failed), complete, failed
        ),
        on_failure=failed,
    )
    return await stack.enter_async_context(memory)


def _embedder(settings: Settings) -> OnnxEmbedder:
    model = settings.embedder.model
    if model == "bundled":
        return OnnxEmbedder.from_folder()
    return OnnxEmbedder.from_folder(Path(model), is_english=False)
