"""What routing can refuse with; everything else is answered by a decision.

RouterError
├── NoTierAllowed       policy, boundary or the turn's needs leave no model
├── ModelNotFound       a name that is no model of the policy's tiers
├── ContextTooLong      the turn fits the window of no model that is allowed
└── ModelFileError      the classifier's files are missing, corrupt or of another version
"""

from __future__ import annotations

from collections.abc import Mapping


class RouterError(Exception):
    """Base of everything this package raises."""


class NoTierAllowed(RouterError):
    """No model may serve this turn; `excluded` maps each model's name to what excluded it."""

    def __init__(self, policy: str, excluded: Mapping[str, str]) -> None:
        self.policy = policy
        self.excluded = dict(excluded)
        why = ", ".join(f"{model}: {code}" for model, code in self.excluded.items())
        super().__init__(f"No tier of policy {policy} may serve this turn ({why}).")


class ModelNotFound(RouterError):
    """The requested name is neither `auto`, `auto:fast`, `auto:best` nor a model of the policy."""

    def __init__(self, model: str) -> None:
        self.model = model
        super().__init__(f"The model {model[:100]!r} does not exist or is not in your policy.")


class ContextTooLong(RouterError):
    """The turn is longer than the window of every model that may otherwise serve it."""

    def __init__(self, needed_tokens: int, largest_tokens: int) -> None:
        self.needed_tokens = needed_tokens
        self.largest_tokens = largest_tokens
        super().__init__(
            f"This turn needs {needed_tokens} tokens, and the largest context window "
            f"that may serve it has {largest_tokens}."
        )


class ModelFileError(RouterError):
    """The classifier cannot be loaded from its folder; the safe tier serves meanwhile."""
