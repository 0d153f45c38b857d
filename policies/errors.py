"""What policies and money can fail with.

PolicyError
├── DocumentErrors       a YAML document holds wrong values, each with file, line and field
├── UnknownPolicy        a tenant names a policy that exists nowhere
├── BrokenPolicy         the tenant's stored policy does not hold with these models
├── PolicyConflict       somebody else changed the policy first (If-Match)
├── UnknownRate          no exchange rate for a currency on a day
├── BudgetExceeded       the hold does not fit what is left
├── CostCapExceeded      one turn may cost more than one turn may
├── TooManyOpen          so many turns are in the works already
└── LedgerUnavailable    no reservation possible: Redis or the books do not answer
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, datetime
from decimal import Decimal
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from policies.document import DocumentError


class PolicyError(Exception):
    """Base of everything this package raises on its own account."""


class DocumentErrors(PolicyError):
    """A document holds wrong values; `errors` has at least one, in the order of the file."""

    def __init__(self, errors: Sequence[DocumentError]) -> None:
        self.errors = tuple(errors)
        super().__init__("\n".join(str(error) for error in self.errors))


class UnknownPolicy(PolicyError):
    """No file and no stored version has this name."""

    def __init__(self, name: str, nearest: str | None = None) -> None:
        hint = f"; did you mean {nearest!r}?" if nearest else ""
        super().__init__(f"there is no policy {name!r}{hint}")
        self.name = name


class BrokenPolicy(PolicyError):
    """What an administrator put for the tenant does not hold with the models there are now."""

    def __init__(self, tenant: str, version: int, error: DocumentErrors) -> None:
        super().__init__(f"version {version} of the policy of {tenant} is broken: {error}")
        self.tenant = tenant
        self.version = version


class PolicyConflict(PolicyError):
    """The policy has moved on since the caller read it; `etag` is what stands now."""

    def __init__(self, etag: str | None) -> None:
        super().__init__(f"the policy was changed meanwhile; its ETag is {etag}")
        self.etag = etag


class UnknownRate(PolicyError):
    """No exchange rate is known for the currency on that day."""

    def __init__(self, currency: str, day: date) -> None:
        super().__init__(f"no USD_{currency} rate is known for {day.isoformat()}; add one under fx")
        self.currency = currency
        self.day = day


class BudgetExceeded(PolicyError):
    """The hold of a turn does not fit what is left of the budget; amounts in micro-units."""

    def __init__(
        self,
        tenant: str,
        *,
        limit_micro: int,
        left_micro: int,
        currency: str,
        resets_at: datetime,
        hold_micro: int = 0,
    ) -> None:
        limit = f"The budget of {limit_micro / 1e6:.2f} {currency}"
        if left_micro > 0:
            what = f"{limit} has {left_micro / 1e6:.6f} left and this turn may cost up to "
            what += f"{hold_micro / 1e6:.6f}"
        else:
            what = f"{limit} is spent"
        super().__init__(f"{what}; it resets at {resets_at.isoformat()}.")
        self.tenant = tenant
        self.limit_micro = limit_micro
        self.left_micro = left_micro
        self.hold_micro = hold_micro
        self.currency = currency
        self.resets_at = resets_at


class CostCapExceeded(PolicyError):
    """A turn may cost more than the policy, or its caller, lets one turn cost; in US dollars."""

    def __init__(self, model: str, cap_usd: Decimal, most_usd: Decimal) -> None:
        super().__init__(
            f"The turn may cost up to {most_usd:.6f} USD on {model}, and one turn may cost "
            f"{cap_usd:.6f} USD."
        )
        self.model = model
        self.cap_usd = cap_usd
        self.most_usd = most_usd


class TooManyOpen(PolicyError):
    """The tenant has as many turns in the works as its policy allows."""

    def __init__(self, tenant: str, limit: int) -> None:
        super().__init__(f"Rate limit reached: {limit} requests at once. Please try again soon.")
        self.tenant = tenant
        self.limit = limit


class LedgerUnavailable(PolicyError):
    """Money cannot be held or settled because its store does not answer."""
