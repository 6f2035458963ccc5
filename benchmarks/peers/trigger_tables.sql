-- Usage rows whose trigger keeps the summaries and the subscription's counters. Two things had to be mended for Postgres
-- to take it: the primary key of a partitioned table holds the partition key, and a unique rule with a condition is an
-- index. The partition of 2024 became one that takes what is inserted today.
CREATE TABLE users (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    username varchar(255) UNIQUE NOT NULL
);

CREATE TABLE models (
    id varchar(255) PRIMARY KEY,
    name varchar(255) NOT NULL,
    provider varchar(100) NOT NULL
);

CREATE TYPE subscription_status AS ENUM ('pending', 'active', 'suspended', 'cancelled', 'expired');

CREATE TABLE subscriptions (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    number integer NOT NULL UNIQUE,
    user_id uuid NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    model_id varchar(255) NOT NULL REFERENCES models (id),
    status subscription_status DEFAULT 'pending',
    quota_requests integer DEFAULT 10000,
    quota_tokens bigint DEFAULT 1000000,
    used_requests integer DEFAULT 0,
    used_tokens bigint DEFAULT 0,
    reset_at timestamptz,
    expires_at timestamptz,
    created_at timestamptz DEFAULT CURRENT_TIMESTAMP,
    updated_at timestamptz DEFAULT CURRENT_TIMESTAMP
);
CREATE UNIQUE INDEX unique_active_subscription ON subscriptions (user_id, model_id) WHERE status = 'active';
CREATE INDEX idx_subscriptions_user ON subscriptions (user_id);
CREATE INDEX idx_subscriptions_model ON subscriptions (model_id);
CREATE INDEX idx_subscriptions_status ON subscriptions (status);
CREATE INDEX idx_subscriptions_expires ON subscriptions (expires_at);

CREATE TABLE api_keys (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    subscription_id uuid NOT NULL REFERENCES subscriptions (id) ON DELETE CASCADE,
    key_hash varchar(255) UNIQUE NOT NULL
);
CREATE INDEX idx_api_keys_subscription ON api_keys (subscription_id);

CREATE TABLE usage_logs (
    id uuid DEFAULT gen_random_uuid(),
    subscription_id uuid NOT NULL REFERENCES subscriptions (id) ON DELETE CASCADE,
    api_key_id uuid REFERENCES api_keys (id) ON DELETE SET NULL,
    model_id varchar(255) NOT NULL,
    request_tokens integer NOT NULL,
    response_tokens integer NOT NULL,
    total_tokens integer GENERATED ALWAYS AS (request_tokens + response_tokens) STORED,
    latency_ms integer,
    status_code integer,
    error_message text,
    metadata jsonb DEFAULT '{}',
    created_at timestamptz DEFAULT CURRENT_TIMESTAMP,
    PRIMARY KEY (id, created_at)
) PARTITION BY RANGE (created_at);
CREATE TABLE usage_logs_now PARTITION OF usage_logs FOR VALUES FROM (MINVALUE) TO (MAXVALUE);
CREATE INDEX idx_usage_logs_subscription ON usage_logs (subscription_id);
CREATE INDEX idx_usage_logs_created ON usage_logs (created_at);
CREATE INDEX idx_usage_logs_model ON usage_logs (model_id);

CREATE TABLE usage_summaries (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    subscription_id uuid NOT NULL REFERENCES subscriptions (id) ON DELETE CASCADE,
    model_id varchar(255) NOT NULL,
    period_type varchar(20) NOT NULL,
    period_start timestamptz NOT NULL,
    request_count integer DEFAULT 0,
    total_tokens bigint DEFAULT 0,
    error_count integer DEFAULT 0,
    avg_latency_ms integer,
    created_at timestamptz DEFAULT CURRENT_TIMESTAMP,
    UNIQUE (subscription_id, model_id, period_type, period_start)
);
CREATE INDEX idx_usage_summaries_subscription ON usage_summaries (subscription_id);
CREATE INDEX idx_usage_summaries_period ON usage_summaries (period_type, period_start);

CREATE FUNCTION update_updated_at_column() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.updated_at = CURRENT_TIMESTAMP;
    RETURN NEW;
END;
$$;
CREATE TRIGGER update_subscriptions_updated_at BEFORE UPDATE ON subscriptions
    FOR EACH ROW EXECUTE FUNCTION update_updated_at_column();

CREATE FUNCTION check_subscription_quota() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.used_requests > OLD.quota_requests OR NEW.used_tokens > OLD.quota_tokens THEN
        NEW.status = 'suspended';
    END IF;
    RETURN NEW;
END;
$$;
CREATE TRIGGER enforce_subscription_quota BEFORE UPDATE ON subscriptions
    FOR EACH ROW
    WHEN (NEW.used_requests IS DISTINCT FROM OLD.used_requests OR NEW.used_tokens IS DISTINCT FROM OLD.used_tokens)
    EXECUTE FUNCTION check_subscription_quota();

CREATE FUNCTION update_usage_summary() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO usage_summaries (
        subscription_id, model_id, period_type, period_start, request_count, total_tokens, error_count, avg_latency_ms
    )
    VALUES (
        NEW.subscription_id, NEW.model_id, 'hour', date_trunc('hour', NEW.created_at), 1, NEW.total_tokens,
        CASE WHEN NEW.status_code >= 400 THEN 1 ELSE 0 END, NEW.latency_ms
    )
    ON CONFLICT (subscription_id, model_id, period_type, period_start) DO UPDATE SET
        request_count = usage_summaries.request_count + 1,
        total_tokens = usage_summaries.total_tokens + NEW.total_tokens,
        error_count = usage_summaries.error_count + CASE WHEN NEW.status_code >= 400 THEN 1 ELSE 0 END,
        avg_latency_ms = (usage_summaries.avg_latency_ms * usage_summaries.request_count + NEW.latency_ms)
            / (usage_summaries.request_count + 1);
    UPDATE subscriptions
    SET used_requests = used_requests + 1, used_tokens = used_tokens + NEW.total_tokens
    WHERE id = NEW.subscription_id;
    RETURN NEW;
END;
$$;
CREATE TRIGGER update_usage_on_log AFTER INSERT ON usage_logs FOR EACH ROW EXECUTE FUNCTION update_usage_summary();

-- As many subscriptions as our side has pairs of tenant and model. Quotas are so high that none is ever suspended.
INSERT INTO models SELECT 'model-' || m, 'Model ' || m, 'example' FROM generate_series(1, :models) AS m;
INSERT INTO users (username) SELECT 'user-' || u FROM generate_series(1, :tenants) AS u;
INSERT INTO subscriptions (number, user_id, model_id, status, quota_requests, quota_tokens)
SELECT row_number() OVER (), users.id, models.id, 'active', 2000000000, 1000000000000000 FROM users, models;
INSERT INTO api_keys (subscription_id, key_hash) SELECT id, 'hash-' || number FROM subscriptions;

-- What a client of this design holds already when it logs a call, by a number pgbench can draw.
CREATE TABLE callers AS
SELECT s.number, s.id AS subscription_id, k.id AS api_key_id, s.model_id
FROM subscriptions AS s JOIN api_keys AS k ON k.subscription_id = s.id;
ALTER TABLE callers ADD PRIMARY KEY (number);

ANALYZE;
