"""Text to vectors: the Embedder protocol and the ONNX encoder behind it.

Owns the model session and its one worker thread. Knows no items, no Redis and no cache.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from memory.errors import EmbedderBusy

if TYPE_CHECKING:
    from tokenizers import Tokenizer

BUNDLED = Path(__file__).parent / "model"
DIMENSIONS = 64
"""Length of a reduced token vector."""
NOTHING = np.zeros((0, DIMENSIONS), np.int8)
"""The tokens of a text that says nothing to the encoder."""
_CHUNK_TOKENS = 126
_MAX_CHUNKS = 4
_CONTEXT_TOKENS = 160


@dataclass(frozen=True, slots=True)
class Encoding:
    """What an encoder makes of a text.

    `sentence` is float32 [dim], unit length. `tokens` is int8 [n, reduced], one row per word piece,
    its length near 127; n is 0 for an empty text.
    """

    sentence: NDArray[np.float32]
    tokens: NDArray[np.int8]


class Embedder(Protocol):
    """Makes vectors of texts."""

    @property
    def revision(self) -> str:
        """Model, revision and precision: vectors of another revision are never compared."""
        ...

    def can_read(self, text: str) -> bool:
        """Return whether the encoder knows the text's language well enough to trust it."""
        ...

    async def encode(self, texts: Sequence[str], before: str = "") -> list[Encoding]:
        """Return the encodings, made in the encoder's own thread.

        Args:
            texts: what to encode.
            before: what was said just before each of them; it lends the vectors its context
                ("yes, there" finds its place) and gets none itself.

        Raises:
            EmbedderBusy: if too many callers wait already.
        """
        ...


class OnnxEmbedder:
    """An encoder in one ONNX file with the outputs `sentence` and `tokens`.

    Args:
        load_session: makes an onnxruntime InferenceSession, on the first text and in the
            encoder's thread, so that a process which never needs it never pays for it.
        load_tokenizer: makes its tokenizer, without padding and truncation, on the first text.
        revision: names model and precision.
        is_english: whether texts in other scripts are outside its knowledge.
        max_waiting: callers that may wait for the worker thread.
    """

    def __init__(
        self,
        load_session: Callable[[], Any],
        load_tokenizer: Callable[[], Tokenizer],
        revision: str,
        *,
        is_english: bool = True,
        max_waiting: int = 32,
    ) -> None:
        self._load_session = load_session
        self._session: Any = None
        self._load_tokenizer = load_tokenizer
        self._revision = revision
        self._is_english = is_english
        self._max_waiting = max_waiting
        self._n_waiting = 0
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="encoder")

    @classmethod
    def from_folder(cls, folder: Path = BUNDLED, *, is_english: bool = True) -> OnnxEmbedder:
        """Return the encoder of `encoder.onnx` and `tokenizer.json` in a folder.

        Raises:
            FileNotFoundError: if a file is missing.
        """
        model = folder / "encoder.onnx"
        if not model.is_file():
            raise FileNotFoundError(f"no encoder at {model}")
        tokenizer_file = folder / "tokenizer.json"
        if not tokenizer_file.is_file():
            raise FileNotFoundError(f"no tokenizer at {tokenizer_file}")
        digest = blake2b(model.read_bytes(), digest_size=6).hexdigest()
        return cls(
            lambda: _open_session(model),
            lambda: _open_tokenizer(tokenizer_file),
            f"onnx-int8-{digest}-{_CONTEXT_TOKENS}",
            is_english=is_english,
        )

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The encoder's tokenizer, loaded when first asked for."""
        return self._load_tokenizer()

    @property
    def revision(self) -> str:
        """Model, revision and precision."""
        return self._revision

    def can_read(self, text: str) -> bool:
        """Return whether most letters are ones the encoder was trained on."""
        if not self._is_english or text.isascii():
            return True
        letters = [character for character in text if character.isalpha()]
        n_latin = sum(1 for letter in letters if letter < "\u0250")
        return 2 * n_latin >= len(letters)

    def encode_now(self, texts: Sequence[str], before: str = "") -> list[Encoding]:
        """Return the encodings; about 0.1 ms a token read, on one core."""
        return [self._encode(text, before) for text in texts]

    async def encode(self, texts: Sequence[str], before: str = "") -> list[Encoding]:
        """Return the encodings, made in the encoder's own thread.

        Args:
            texts: what to encode.
            before: what was said just before each of them; it lends the vectors its context
                ("yes, there" finds its place) and gets none itself.

        Raises:
            EmbedderBusy: if too many callers wait already.
        """
        if self._n_waiting >= self._max_waiting:
            raise EmbedderBusy(self._n_waiting)
        self._n_waiting += 1
        try:
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._worker, self.encode_now, texts, before)
        finally:
            self._n_waiting -= 1

    def close(self) -> None:
        """Stop the worker thread; safe to call twice."""
        self._worker.shutdown(wait=False, cancel_futures=True)

    def _encode(self, text: str, before: str = "") -> Encoding:
        """Encode a text in chunks of 126 tokens; past four chunks the rest is not looked at.

        Each chunk reads up to 160 tokens before it, of its own text or of `before`. Source: late
        chunking (Guenther et al. 2024, arXiv 2409.04701), section 3.
        """
        if self._session is None:
            self._session = self._load_session()
        ids = self.tokenizer.encode(text[:8000]).ids
        first, last, inner = ids[:1], ids[-1:], ids[1:-1]
        seen = self.tokenizer.encode(before[-8000:]).ids[1:-1] if before else []
        start = len(seen)
        seen += inner
        sentences, tokens = [], []
        for at in range(start, max(len(seen), start + 1), _CHUNK_TOKENS)[:_MAX_CHUNKS]:
            left = max(0, at - _CONTEXT_TOKENS)
            chunk = np.array([first + seen[left : at + _CHUNK_TOKENS] + last], np.int64)
            feed = {"input_ids": chunk, "attention_mask": np.ones_like(chunk)}
            sentence, vectors = self._session.run(["sentence", "tokens"], feed)
            sentences.append(sentence[0])
            tokens.append(vectors[0, 1 + at - left : -1])
        total = np.sum(sentences, axis=0)
        return Encoding(total / np.linalg.norm(total), np.concatenate(tokens))


def _open_tokenizer(file: Path) -> Tokenizer:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(file))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


def _open_session(model: Path) -> Any:
    """Return a session that stays on the calling thread; takes about 0.2 s."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
