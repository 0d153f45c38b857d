"""Replies held to a form: a JSON schema or a grammar -> the tokens that may come next.

Owns the bridge to llguidance, an optional package; without it such requests are refused.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

from tokenizers import Tokenizer

from local_models.errors import RequestRefused

Mask = Callable[[Sequence[int]], Any]


class Grammars:
    """Compiles grammars for one tokenizer; a compiled grammar belongs to one reply."""

    def __init__(self, tokenizer: Tokenizer, vocabulary: int, eos: Sequence[int]) -> None:
        self._source = tokenizer
        self._vocabulary = vocabulary
        self._eos = list(eos)
        self._tokenizer: Any = None

    def of_schema(self, schema: Any) -> Mask:
        """Return the mask of a reply that is JSON of that schema; see `of_grammar`."""
        # Free white space lets a small model spend its whole budget on blanks.
        form = {"whitespace_flexible": False}
        return self._mask(
            lambda matcher: matcher.grammar_from_json_schema(json.dumps(schema), defaults=form),
            "response_format",
        )

    def of_grammar(self, grammar: str) -> Mask:
        """Return a function of a reply's tokens so far to a bool tensor [vocabulary].

        Raises:
            RequestRefused: llguidance is not installed, or it does not accept the grammar.
        """
        return self._mask(lambda _: grammar, "tools")

    def _mask(self, compile_for: Callable[[Any], str], param: str) -> Mask:
        try:
            import llguidance
        except ImportError as error:
            raise RequestRefused(
                "This server cannot hold a reply to JSON: the package llguidance is missing.",
                code="unsupported_parameter",
                param=param,
            ) from error
        if self._tokenizer is None:
            self._tokenizer = llguidance.LLTokenizer(
                self._source.to_str(), n_vocab=self._vocabulary, eos_token=self._eos or None
            )
        matcher = llguidance.LLMatcher(self._tokenizer, compile_for(llguidance.LLMatcher))
        if matcher.is_error():
            raise RequestRefused(
                f"The schema is not accepted: {matcher.get_error()}",
                code="invalid_value",
                param=param,
            )
        return _Follower(matcher, self._vocabulary)


class _Follower:
    """Feeds a matcher the tokens that are new since the last call, and asks for the next mask."""

    def __init__(self, matcher: Any, vocabulary: int) -> None:
        self._matcher = matcher
        self._vocabulary = vocabulary
        self._n_fed = 0

    def __call__(self, tokens: Sequence[int]) -> Any:
        import numpy as np
        import torch

        new = list(tokens[self._n_fed :])
        self._n_fed = len(tokens)
        if new:
            self._matcher.consume_tokens(new)
        bits = np.frombuffer(self._matcher.compute_bitmask(), dtype=np.uint8)
        mask = np.unpackbits(bits, bitorder="little")[: self._vocabulary]
        return torch.from_numpy(mask.astype(bool))
