-- One subscription whose tokens are counted in its row: the document's columns that the deduction touches.
CREATE TABLE users (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    email text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE subscriptions (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    number integer NOT NULL UNIQUE,
    user_id uuid NOT NULL REFERENCES users (id),
    tier_id text NOT NULL,
    tokens_limit bigint NOT NULL,
    tokens_used bigint NOT NULL,
    tokens_remaining bigint NOT NULL,
    status text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    expires_at timestamptz
);

WITH owner AS (INSERT INTO users (email) VALUES ('one@example.org') RETURNING id)
INSERT INTO subscriptions (number, user_id, tier_id, tokens_limit, tokens_used, tokens_remaining, status)
SELECT 1, id, 'pro', 1000000000000, 0, 1000000000000, 'active' FROM owner;

ANALYZE;
