"""ServedModel: a catalogue model with the backend that serves it and its token counter."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

from gateway.backends.base import Backend
from gateway.errors import RequestError
from gateway.token_count import MESSAGE_OVERHEAD_TOKENS, TokenCounter
from memory.alternation import OPENING, alternating
from memory.conversation import Context
from policies.catalog import ModelSpec

_DEFAULT_OUTPUT_TOKENS = 4096
_MIN_PROMPT_SHARE = 0.5  # of a window: what a reply of unstated length leaves to the prompt
# Models by whose names a server is known to apply a template like these, where none is at hand.
_STRICT_NAMES = re.compile(r"mistral|mixtral|ministral|codestral|magistral|gemma", re.IGNORECASE)
_NO_SYSTEM_NAMES = re.compile(r"gemma", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class TemplateRules:
    """What a model's chat template refuses: roles that do not alternate, a system message."""

    must_alternate: bool = False
    takes_system: bool = True

    def applied(self, context: Context) -> Context:
        """Return the context with messages that the template takes; it has no more tokens."""
        if not self.must_alternate:
            return context
        shown = alternating(context.messages, takes_system=self.takes_system)
        return replace(context, messages=shown)

    @property
    def reserved_tokens(self) -> int:
        """What applying the rules may add to a prompt."""
        if not self.must_alternate:
            return 0
        return MESSAGE_OVERHEAD_TOKENS + len(OPENING.text.encode())


ANY_TEMPLATE = TemplateRules()


def template_rules(name: str, template: str | None) -> TemplateRules:
    """Return the rules of a template, or those that a model of this name has where none is known.

    Source: the `raise_exception` texts of the templates that Mistral's and Gemma's repositories
    carry ("... roles must alternate user/assistant ...", "System role not supported").
    """
    if template is None:
        return TemplateRules(bool(_STRICT_NAMES.search(name)), not _NO_SYSTEM_NAMES.search(name))
    text = template.casefold()
    return TemplateRules("must alternate" in text, "system role not supported" not in text)


@dataclass(frozen=True, slots=True)
class ServedModel:
    """One model of the catalogue, ready to be asked.

    `is_demonstration` marks the bundled model; `is_exact` says whether `count` is the model's own
    tokenizer or an estimate from above; `template` what its chat template refuses.
    """

    spec: ModelSpec
    backend: Backend
    count: TokenCounter
    is_exact: bool = False
    is_demonstration: bool = False
    template: TemplateRules = ANY_TEMPLATE

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


def model_named(models: ServedModels, name: str | None) -> ServedModel:
    """Return a model by its catalogue name.

    None takes an exactly counted model before an estimated one, then the smallest window.

    Raises:
        RequestError: 404, no such model.
    """
    if name is None:
        return min(models.values(), key=lambda m: (not m.is_exact, m.spec.context_tokens))
    if name in models:
        return models[name]
    raise RequestError(
        f"The model '{name}' does not exist.",
        status=404,
        code="model_not_found",
        param="model",
    )


def counter_of(models: ServedModels, name: str | None) -> tuple[TokenCounter, int]:
    """Return the token counter of model_named() and the room for its prompt.

    Raises:
        RequestError: 404, no such model.
    """
    model = model_named(models, name)
    return model.count, model.prompt_tokens(None)
