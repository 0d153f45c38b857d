"""ServedModel: a catalogue model with the backend that serves it and its token counter."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from gateway.backends.base import Backend
from gateway.errors import RequestError
from gateway.token_count import TokenCounter
from policies.catalog import ModelSpec

_DEFAULT_OUTPUT_TOKENS = 4096
_MIN_PROMPT_SHARE = 0.5  # of a window: what a reply of unstated length leaves to the prompt


@dataclass(frozen=True, slots=True)
class ServedModel:
    """One model of the catalogue, ready to be asked.

    `is_demonstration` marks the bundled model; `is_exact` says whether `count` is the model's own
    tokenizer or an estimate from above.
    """

    spec: ModelSpec
    backend: Backend
    count: TokenCounter
    is_exact: bool = False
    is_demonstration: bool = False

    def output_tokens(self, asked: int | None) -> int:
        """Return the most tokens one choice of a reply may have on this model.

        What the caller asked for, else the model's own limit, else 4,096; never more than the
        window, and without an explicit wish never more than half of it.
        """
        window = self.spec.context_tokens
        if asked is not None:
            return min(asked, self.spec.max_output_tokens or asked, window)
        limit = self.spec.max_output_tokens or _DEFAULT_OUTPUT_TOKENS
        return min(limit, int(window * _MIN_PROMPT_SHARE))

    def prompt_tokens(self, asked_output: int | None) -> int:
        """Return the room for the prompt beside a reply of that length."""
        return max(0, self.spec.context_tokens - self.output_tokens(asked_output))


ServedModels = Mapping[str, ServedModel]


def counter_of(models: ServedModels, name: str | None) -> tuple[TokenCounter, int]:
    """Return a model's token counter and the room for its prompt.

    None takes an exactly counted model before an estimated one, then the smallest window.

    Raises:
        RequestError: 404, no such model.
    """
    if name is None:
        model = min(models.values(), key=lambda m: (not m.is_exact, m.spec.context_tokens))
    elif name in models:
        model = models[name]
    else:
        raise RequestError(
            f"The model '{name}' does not exist.",
            status=404,
            code="model_not_found",
            param="model",
        )
    return model.count, model.prompt_tokens(None)
