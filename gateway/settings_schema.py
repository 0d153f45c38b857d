"""The shape of turnwise.yaml: every key it may have, and what each value may be.

Checks one value or section at a time; what needs several is checked by `settings_reader.py`.
"""

from __future__ import annotations

import difflib
from datetime import date
from decimal import Decimal
from typing import Annotated, Literal
from zoneinfo import available_timezones

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationInfo,
    field_validator,
    model_validator,
)

Currency = Annotated[str, Field(pattern=r"^[A-Z]{3}$")]
TenantId = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$")]
Pair = Annotated[str, Field(pattern=r"^USD_[A-Z]{3}$")]
Seconds = Annotated[float, Field(gt=0, le=86_400)]
UsdPrice = Annotated[Decimal, Field(ge=0, le=1_000_000, allow_inf_nan=False)]
Feature = Literal["tools", "json", "images"]


def _known_timezone(name: str) -> str:
    if name not in available_timezones():
        near = difflib.get_close_matches(name, available_timezones(), n=1)
        raise ValueError(f"a time zone of the IANA list{f', such as {near[0]}' if near else ''}")
    return name


def _redis_url(url: str) -> str:
    if url != "embedded" and not url.startswith(("redis://", "rediss://", "unix://")):
        raise ValueError("embedded, redis://…, rediss://… or unix://…")
    return url


def _ledger_url(url: str) -> str:
    if not url.startswith(("sqlite:///", "postgresql://", "postgresql+")):
        raise ValueError("sqlite:///PATH or postgresql://…")
    return url


def _http_url(url: str) -> str:
    if not url.startswith(("http://", "https://")):
        raise ValueError("http://… or https://…")
    return url.rstrip("/")


Timezone = Annotated[str, AfterValidator(_known_timezone)]
RedisUrl = Annotated[str, AfterValidator(_redis_url)]
HttpUrl = Annotated[str, AfterValidator(_http_url)]


class Section(BaseModel):
    """Base of every part of the file: unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class ServerSection(Section):
    """`server:`."""

    host: str = "127.0.0.1"
    port: int = Field(default=8080, ge=0, le=65_535)
    workers: int = Field(default=1, ge=1, le=64)


class RedisSection(Section):
    """`redis:`."""

    url: RedisUrl = "embedded"
    cluster: bool = False
    cache_url: RedisUrl | None = None

    @field_validator("cluster")
    @classmethod
    def _has_nodes(cls, value: bool, info: ValidationInfo) -> bool:
        if value and not str(info.data.get("url", "redis://")).startswith(
            ("redis://", "rediss://")
        ):
            raise ValueError("false, or a url that begins with redis:// or rediss://")
        return value


class LedgerSection(Section):
    """`ledger:`."""

    url: Annotated[str, AfterValidator(_ledger_url)] = "sqlite:///.turnwise/ledger.db"


class EngineSection(Section):
    """A backend of kind `engine`: a child process that Turnwise starts."""

    kind: Literal["engine"]
    model: str = "bundled"
    quantize: Literal["none", "int8", "int4"] = "int8"
    device: Literal["cpu", "cuda"] = "cpu"
    kv_cache: Literal["full", "int8"] = "full"
    region: str | None = "on_premises"


class OpenAISection(Section):
    """A backend of kind `openai`: any server that speaks OpenAI's protocol."""

    kind: Literal["openai"]
    base_url: HttpUrl
    metrics_url: HttpUrl | None = None
    api_key: str | None = None
    region: str | None = None


class LitellmSection(Section):
    """A backend of kind `litellm`: any provider litellm speaks."""

    kind: Literal["litellm"]
    base_url: HttpUrl | None = None
    api_key: str | None = None
    region: str | None = None


class SimulatedSection(Section):
    """A backend of kind `simulated`: no model at all, labelled so in every answer."""

    kind: Literal["simulated"]
    region: str | None = None


BackendSection = Annotated[
    EngineSection | OpenAISection | LitellmSection | SimulatedSection,
    Field(discriminator="kind"),
]


class PriceSection(Section):
    """`price:` of a model, in USD per million tokens or per busy second."""

    input_usd_per_mtok: UsdPrice | None = None
    cached_input_usd_per_mtok: UsdPrice | None = None
    cache_write_usd_per_mtok: UsdPrice | None = None
    output_usd_per_mtok: UsdPrice | None = None
    busy_second_usd: UsdPrice | None = None

    @model_validator(mode="after")
    def _is_complete(self) -> PriceSection:
        per_token = (self.input_usd_per_mtok, self.output_usd_per_mtok)
        if None in per_token and (self.busy_second_usd is None or any(per_token)):
            raise ValueError("busy_second_usd, or both input_usd_per_mtok and output_usd_per_mtok")
        return self


class DatedPriceSection(PriceSection):
    """A price that holds from one day to another, UTC, both included."""

    since: date = Field(alias="from")
    to: date | None = None


def _price_kind(value: object) -> str:
    return "dated" if isinstance(value, list | tuple) else "one"


AnyPrice = Annotated[
    Annotated[PriceSection, Tag("one")]
    | Annotated[tuple[DatedPriceSection, ...], Field(min_length=1), Tag("dated")],
    Discriminator(_price_kind),
]


class ModelSection(Section):
    """One entry of `models:`; left out, `supports` is everything but nothing for an engine."""

    backend: str
    name: str
    context_tokens: int = Field(ge=16, le=100_000_000)
    max_output_tokens: int | None = Field(default=None, ge=1)
    price: AnyPrice | None = None
    supports: tuple[Feature, ...] | None = None
    region: str | None = None


class TimeoutsSection(Section):
    """`timeouts:`."""

    connect_s: Seconds = 3
    first_token_s: Seconds = 10
    idle_s: Seconds = 20
    total_s: Seconds = 600


class TenantSection(Section):
    """One entry of `tenants:`."""

    policy: str = "default"
    currency: Currency = "USD"
    timezone: Timezone = "UTC"
    keys: tuple[str, ...] = ()


class RateSection(Section):
    """One dated exchange rate."""

    since: date = Field(alias="from")
    to: date | None = None
    rate: Decimal = Field(gt=0, le=1_000_000_000, allow_inf_nan=False)


class EmbedderSection(Section):
    """`embedder:`."""

    model: str = "bundled"


class Configuration(Section):
    """The whole file."""

    server: ServerSection = ServerSection()
    redis: RedisSection = RedisSection()
    ledger: LedgerSection = LedgerSection()
    backends: dict[str, BackendSection] = Field(min_length=1)
    models: dict[str, ModelSection] = Field(min_length=1)
    timeouts: TimeoutsSection = TimeoutsSection()
    tenants: dict[TenantId, TenantSection] = {}
    fx: dict[Pair, tuple[RateSection, ...]] | None = None
    embedder: EmbedderSection = EmbedderSection()
