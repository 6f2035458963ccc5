"""Plans with their versions, and the four that come with Tollhouse."""

import json
from collections.abc import Sequence

from alembic import op

revision: str = "0005"
down_revision: str | None = "0004"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

_TABLES = """
CREATE TABLE billing.plans (
    plan_id uuid NOT NULL,
    plan_code text COLLATE "C" NOT NULL,
    name text NOT NULL,
    description text NOT NULL,
    active boolean NOT NULL,
    sort_order integer NOT NULL,
    revision bigint NOT NULL,
    create_time timestamptz NOT NULL,
    update_time timestamptz NOT NULL,
    archive_time timestamptz,
    CONSTRAINT plans_pkey PRIMARY KEY (plan_id),
    CONSTRAINT plans_code_once UNIQUE (plan_code)
);
CREATE INDEX plans_in_order ON billing.plans (sort_order, plan_code);
CREATE TABLE billing.plan_versions (
    plan_id uuid NOT NULL,
    version integer NOT NULL,
    terms jsonb NOT NULL,
    create_time timestamptz NOT NULL,
    publish_time timestamptz NOT NULL,
    archive_time timestamptz,
    CONSTRAINT plan_versions_pkey PRIMARY KEY (plan_id, version),
    CONSTRAINT plan_versions_plan_known FOREIGN KEY (plan_id) REFERENCES billing.plans (plan_id),
    CONSTRAINT plan_versions_numbered CHECK (version >= 1)
);
CREATE UNIQUE INDEX plan_versions_published_once ON billing.plan_versions (plan_id) WHERE archive_time IS NULL;
CREATE TABLE billing.plan_drafts (
    plan_id uuid NOT NULL,
    version integer NOT NULL,
    terms jsonb NOT NULL,
    create_time timestamptz NOT NULL,
    CONSTRAINT plan_drafts_pkey PRIMARY KEY (plan_id),
    CONSTRAINT plan_drafts_plan_known FOREIGN KEY (plan_id) REFERENCES billing.plans (plan_id),
    CONSTRAINT plan_drafts_numbered CHECK (version >= 1)
);
CREATE TABLE billing.plan_references (
    provider text COLLATE "C" NOT NULL,
    kind text COLLATE "C" NOT NULL,
    external_id text COLLATE "C" NOT NULL,
    plan_id uuid NOT NULL,
    CONSTRAINT plan_references_pkey PRIMARY KEY (provider, kind, external_id),
    CONSTRAINT plan_references_plan_known FOREIGN KEY (plan_id) REFERENCES billing.plans (plan_id)
);
CREATE INDEX plan_references_of_plan ON billing.plan_references (plan_id);
CREATE TABLE billing.plan_requests (
    request_id text COLLATE "C" NOT NULL,
    rpc text NOT NULL,
    request bytea NOT NULL,
    response bytea NOT NULL,
    create_time timestamptz NOT NULL,
    CONSTRAINT plan_requests_pkey PRIMARY KEY (request_id)
);
REVOKE DELETE, TRUNCATE ON billing.plans FROM tollhouse_billing;
REVOKE UPDATE, DELETE, TRUNCATE ON billing.plan_versions, billing.plan_requests FROM tollhouse_billing;
REVOKE UPDATE, TRUNCATE ON billing.plan_references FROM tollhouse_billing;
GRANT UPDATE (archive_time) ON billing.plan_versions TO tollhouse_billing
"""

_DAY_S = 86_400
_PLAN_ID = "019a0000-0000-7000-8000-0000000000{number:02}"
# In the order of the plans: each has the features of those before it, too.
_FEATURES = (
    ("basic_generation", "csv_upload"),
    ("enhanced_generation", "email_support"),
    ("priority_support", "custom_templates", "api_access"),
    ("white_label", "custom_integrations", "unlimited_access"),
)
# The code, the name, the price in USD, the credits, and the requests a minute and an hour.
_PLANS = (
    ("free", "Free", "0", "10", "5", "50"),
    ("basic", "Basic", "9.99", "100", "20", "500"),
    ("pro", "Pro", "29.99", "1000", "50", "2000"),
    ("enterprise", "Enterprise", "99.99", "10000", "100", "10000"),
)
_ADD_PLANS = """
INSERT INTO billing.plans (
    plan_id, plan_code, name, description, active, sort_order, revision, create_time, update_time
) VALUES """
_ADD_VERSIONS = "INSERT INTO billing.plan_versions (plan_id, version, terms, create_time, publish_time) VALUES "


def _limit(code: str, window: str, value: str) -> dict[str, object]:
    limit = {"metric": "requests", "window": window, "soft": False, "currency_code": "", "value": value}
    return {"entitlement_code": code, "limit": limit}


def _terms(number: int) -> dict[str, object]:
    """Return the terms of a plan as `services.billing.plan.terms_json` writes them."""
    code, _, price, included, per_minute, per_hour = _PLANS[number]
    is_free = code == "free"
    limits = [
        _limit("requests_per_minute", "MINUTE", per_minute),
        _limit("requests_per_hour", "HOUR", per_hour),
        *([_limit("max_api_calls_per_day", "DAY", "5")] if is_free else []),
    ]
    features = [feature for of_plan in _FEATURES[: number + 1] for feature in of_plan]
    return {
        "price": {"currency_code": "USD", "value": price},
        "billing_interval": {"unit": "MONTH", "count": 1},
        "credits": [{"amount": {"currency_code": "CREDIT", "value": included}, "rollover": "NONE", "priority": 0}],
        "entitlements": [*limits, *({"entitlement_code": feature, "enabled": True} for feature in features)],
        "past_due": {
            "retry_after_s": [] if is_free else [_DAY_S, 3 * _DAY_S, 7 * _DAY_S],
            "end": "CANCEL" if is_free else "CHANGE_PLAN",
            "fallback_plan_code": "" if is_free else "free",
        },
        "metadata": {},
    }


def _seeds() -> tuple[str, str]:
    ids = [_PLAN_ID.format(number=number) for number in range(1, len(_PLANS) + 1)]
    plans = ", ".join(
        f"('{plan_id}', '{plan[0]}', '{plan[1]}', '', true, {10 * number}, 1, now(), now())"
        for number, (plan_id, plan) in enumerate(zip(ids, _PLANS, strict=True), start=1)
    )
    versions = ", ".join(
        f"('{plan_id}', 1, '{json.dumps(_terms(number))}', now(), now())" for number, plan_id in enumerate(ids)
    )
    return _ADD_PLANS + plans, _ADD_VERSIONS + versions


def upgrade() -> None:
    for statement in (*_TABLES.strip().split(";\n"), *_seeds()):
        op.execute(statement)
