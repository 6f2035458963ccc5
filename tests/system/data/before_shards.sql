-- An installation as the version before shards left it (commit 46db41d), as pg_dump writes it with --inserts.
-- It was made once, with `tollhouse up`, a replay of 40 calls and what tests/system/test_upgrade.py looks for. The services
-- were killed, so charges are pending. The login roles tollhouse_identity, tollhouse_billing and tollhouse_metering must
-- exist before it is loaded. It holds hashes of API keys made with a pepper that is gone; no key works anywhere.
SET statement_timeout = 0;
SET lock_timeout = 0;
SET idle_in_transaction_session_timeout = 0;
SET client_encoding = 'UTF8';
SET standard_conforming_strings = on;
SELECT pg_catalog.set_config('search_path', '', false);
SET check_function_bodies = false;
SET client_min_messages = warning;
CREATE SCHEMA billing;
CREATE SCHEMA identity;
CREATE SCHEMA metering;
CREATE FUNCTION metering.ensure_usage_month(moment timestamp with time zone) RETURNS boolean
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'metering', 'pg_temp'
    SET "TimeZone" TO 'UTC'
    AS $_$
DECLARE
    beginning timestamptz := date_trunc('month', moment, 'UTC');
    ending timestamptz := date_trunc('month', moment, 'UTC') + interval '1 month';
    partition text := 'usage_records_' || to_char(beginning, 'YYYY_MM');
BEGIN
    IF to_regclass(format('metering.%I', partition)) IS NOT NULL THEN
        RETURN false;
    END IF;
    PERFORM pg_advisory_xact_lock(hashtextextended('metering.ensure_usage_month', 0));
    -- Asked of the catalogue itself: the answer above may be remembered from before the lock was waited for.
    IF EXISTS (SELECT FROM pg_class WHERE relname = partition AND relnamespace = 'metering'::regnamespace) THEN
        RETURN false;
    END IF;
    EXECUTE format('CREATE TABLE metering.%I (LIKE metering.usage_records INCLUDING ALL)', partition);
    EXECUTE format('REVOKE UPDATE, DELETE, TRUNCATE ON metering.%I FROM tollhouse_metering', partition);
    LOCK TABLE metering.usage_records_default IN ACCESS EXCLUSIVE MODE;
    EXECUTE format(
        'WITH moved AS (DELETE FROM metering.usage_records_default'
        ' WHERE occur_time >= $1 AND occur_time < $2 RETURNING *)'
        ' INSERT INTO metering.%I SELECT * FROM moved', partition) USING beginning, ending;
    EXECUTE format(
        'ALTER TABLE metering.usage_records ATTACH PARTITION metering.%I FOR VALUES FROM (%L) TO (%L)',
        partition, beginning, ending);
    RETURN true;
END $_$;
SET default_tablespace = '';
SET default_table_access_method = heap;
CREATE TABLE billing.accounts (
    organization_id uuid NOT NULL,
    account_id uuid NOT NULL,
    owner_id uuid NOT NULL,
    currency_code text NOT NULL,
    posted numeric(28,9) NOT NULL,
    held numeric(28,9) NOT NULL,
    sequence bigint NOT NULL,
    overdraft_limit numeric(28,9) NOT NULL,
    state text NOT NULL,
    hold_expiry_from timestamp with time zone,
    last_movement_time timestamp with time zone,
    version bigint NOT NULL,
    revision bigint NOT NULL,
    request_id text,
    request jsonb,
    metadata jsonb,
    create_time timestamp with time zone NOT NULL,
    update_time timestamp with time zone NOT NULL,
    CONSTRAINT accounts_held_not_negative CHECK ((held >= (0)::numeric)),
    CONSTRAINT accounts_overdraft_limit_not_negative CHECK ((overdraft_limit >= (0)::numeric)),
    CONSTRAINT accounts_state_known CHECK ((state = ANY (ARRAY['OPEN'::text, 'CLOSED'::text])))
)
WITH (fillfactor='60');
CREATE TABLE billing.alembic_version (
    version_num character varying(32) NOT NULL
);
CREATE TABLE billing.audit_events (
    organization_id uuid NOT NULL,
    sequence bigint NOT NULL,
    event_id uuid NOT NULL,
    event_time timestamp with time zone NOT NULL,
    action text NOT NULL,
    actor text NOT NULL,
    api_key_id uuid,
    resource_type text NOT NULL,
    resource_id text NOT NULL,
    changes jsonb NOT NULL,
    peer_address text NOT NULL,
    user_agent text NOT NULL,
    request_id text NOT NULL,
    previous_hash bytea NOT NULL,
    hash bytea NOT NULL,
    CONSTRAINT audit_events_hashes CHECK (((octet_length(previous_hash) = 32) AND (octet_length(hash) = 32))),
    CONSTRAINT audit_events_sequence_from_one CHECK ((sequence > 0))
);
CREATE TABLE billing.audit_heads (
    organization_id uuid NOT NULL,
    sequence bigint NOT NULL,
    hash bytea NOT NULL,
    event_time timestamp with time zone NOT NULL,
    CONSTRAINT audit_heads_hash CHECK ((octet_length(hash) = 32))
);
CREATE TABLE billing.declines (
    organization_id uuid NOT NULL,
    operation_id text NOT NULL COLLATE pg_catalog."C",
    slot text NOT NULL,
    reason text NOT NULL,
    request jsonb NOT NULL,
    facts jsonb NOT NULL,
    create_time timestamp with time zone NOT NULL,
    actor text,
    CONSTRAINT declines_slot_known CHECK ((slot = ANY (ARRAY['MOVEMENT'::text, 'HOLD'::text])))
);
CREATE TABLE billing.holds (
    organization_id uuid NOT NULL,
    operation_id text NOT NULL COLLATE pg_catalog."C",
    hold_id uuid NOT NULL,
    project_id uuid,
    account_id uuid NOT NULL,
    currency_code text NOT NULL,
    amount numeric(28,9) NOT NULL,
    ttl_ms bigint NOT NULL,
    state text NOT NULL,
    description text,
    metadata jsonb,
    create_time timestamp with time zone NOT NULL,
    expire_time timestamp with time zone NOT NULL,
    end_time timestamp with time zone,
    actor text,
    CONSTRAINT holds_amount_positive CHECK ((amount > (0)::numeric)),
    CONSTRAINT holds_end_once CHECK (((state = 'OPEN'::text) = (end_time IS NULL))),
    CONSTRAINT holds_state_known CHECK ((state = ANY (ARRAY['OPEN'::text, 'CAPTURED'::text, 'RELEASED'::text, 'EXPIRED'::text])))
);
CREATE TABLE billing.transactions (
    organization_id uuid NOT NULL,
    operation_id text NOT NULL COLLATE pg_catalog."C",
    transaction_id uuid NOT NULL,
    kind text NOT NULL,
    project_id uuid,
    account_id uuid NOT NULL,
    sequence bigint NOT NULL,
    direction text NOT NULL,
    currency_code text NOT NULL,
    amount numeric(28,9) NOT NULL,
    balance_after numeric(28,9) NOT NULL,
    requested_amount numeric(28,9),
    mode text,
    overdrawn boolean NOT NULL,
    system_account text,
    counter_account_id uuid,
    counter_project_id uuid,
    counter_sequence bigint,
    counter_balance_after numeric(28,9),
    reverses_transaction_id uuid,
    held_amount numeric(28,9),
    description text,
    metadata jsonb,
    create_time timestamp with time zone NOT NULL,
    actor text,
    CONSTRAINT transactions_amount_not_negative CHECK ((amount >= (0)::numeric)),
    CONSTRAINT transactions_direction_known CHECK ((direction = ANY (ARRAY['DEBIT'::text, 'CREDIT'::text]))),
    CONSTRAINT transactions_kind_known CHECK ((kind = ANY (ARRAY['DEBIT'::text, 'CREDIT'::text, 'TRANSFER'::text, 'CAPTURE'::text, 'REVERSAL'::text]))),
    CONSTRAINT transactions_one_other_side CHECK (((system_account IS NULL) = (counter_account_id IS NOT NULL)))
);
CREATE TABLE identity.alembic_version (
    version_num character varying(32) NOT NULL
);
CREATE TABLE identity.api_keys (
    organization_id uuid NOT NULL,
    api_key_id uuid NOT NULL,
    project_id uuid,
    user_id uuid,
    service_account_id uuid,
    name text NOT NULL,
    environment text NOT NULL,
    digest bytea NOT NULL,
    pepper_version integer NOT NULL,
    secret_prefix text NOT NULL,
    secret_suffix text NOT NULL,
    scopes text[] NOT NULL,
    allowed_models text[] NOT NULL,
    metadata jsonb NOT NULL,
    external_id text NOT NULL,
    create_time timestamp with time zone NOT NULL,
    update_time timestamp with time zone NOT NULL,
    expire_time timestamp with time zone,
    disable_time timestamp with time zone,
    revoke_time timestamp with time zone,
    last_used_time timestamp with time zone,
    allowed_addresses text[] DEFAULT '{}'::text[] NOT NULL,
    rotated_from_api_key_id uuid,
    rotated_to_api_key_id uuid,
    imported_prefix text,
    version bigint DEFAULT 1 NOT NULL,
    CONSTRAINT api_keys_digest_only CHECK ((octet_length(digest) = 32)),
    CONSTRAINT api_keys_environment_known CHECK ((environment = ANY (ARRAY['live'::text, 'test'::text]))),
    CONSTRAINT api_keys_hint_is_short CHECK (
CASE
    WHEN (imported_prefix IS NULL) THEN ((char_length(secret_prefix) = 12) AND (char_length(secret_suffix) = 4))
    ELSE ((char_length(secret_prefix) <= 12) AND (char_length(secret_suffix) <= 4))
END),
    CONSTRAINT api_keys_one_owner CHECK ((num_nonnulls(user_id, service_account_id) = 1))
)
WITH (fillfactor='80');
CREATE TABLE identity.audit_events (
    organization_id uuid NOT NULL,
    sequence bigint NOT NULL,
    event_id uuid NOT NULL,
    event_time timestamp with time zone NOT NULL,
    action text NOT NULL,
    actor text NOT NULL,
    api_key_id uuid,
    resource_type text NOT NULL,
    resource_id text NOT NULL,
    changes jsonb NOT NULL,
    peer_address text NOT NULL,
    user_agent text NOT NULL,
    request_id text NOT NULL,
    previous_hash bytea NOT NULL,
    hash bytea NOT NULL,
    CONSTRAINT audit_events_hashes CHECK (((octet_length(previous_hash) = 32) AND (octet_length(hash) = 32))),
    CONSTRAINT audit_events_sequence_from_one CHECK ((sequence > 0))
);
CREATE TABLE identity.audit_heads (
    organization_id uuid NOT NULL,
    sequence bigint NOT NULL,
    hash bytea NOT NULL,
    event_time timestamp with time zone NOT NULL,
    CONSTRAINT audit_heads_hash CHECK ((octet_length(hash) = 32))
);
CREATE TABLE identity.imported_prefixes (
    prefix text NOT NULL,
    create_time timestamp with time zone NOT NULL
);
CREATE TABLE identity.invitations (
    organization_id uuid NOT NULL,
    invitation_id uuid NOT NULL,
    email text NOT NULL,
    email_folded text NOT NULL,
    role text NOT NULL,
    digest bytea NOT NULL,
    inviter text NOT NULL,
    create_time timestamp with time zone NOT NULL,
    expire_time timestamp with time zone NOT NULL,
    accept_time timestamp with time zone,
    revoke_time timestamp with time zone,
    accepted_user_id uuid,
    CONSTRAINT invitations_accepted_by_somebody CHECK (((accept_time IS NULL) = (accepted_user_id IS NULL))),
    CONSTRAINT invitations_digest_only CHECK ((octet_length(digest) = 32)),
    CONSTRAINT invitations_role_known CHECK ((role = ANY (ARRAY['owner'::text, 'admin'::text, 'member'::text, 'billing'::text, 'viewer'::text])))
);
CREATE TABLE identity.key_changes (
    revision bigint NOT NULL,
    kind text NOT NULL,
    subject_type text NOT NULL,
    subject_id uuid NOT NULL,
    organization_id uuid,
    change_time timestamp with time zone NOT NULL,
    CONSTRAINT key_changes_subject_type_known CHECK ((subject_type = ANY (ARRAY['api_key'::text, 'user'::text, 'service_account'::text, 'project'::text, 'organization'::text])))
);
CREATE TABLE identity.linked_identities (
    provider text NOT NULL,
    subject text NOT NULL,
    user_id uuid NOT NULL,
    create_time timestamp with time zone NOT NULL
);
CREATE TABLE identity.members (
    organization_id uuid NOT NULL,
    user_id uuid NOT NULL,
    role text NOT NULL,
    create_time timestamp with time zone NOT NULL,
    update_time timestamp with time zone NOT NULL,
    version bigint DEFAULT 1 NOT NULL,
    CONSTRAINT members_role_known CHECK ((role = ANY (ARRAY['owner'::text, 'admin'::text, 'member'::text, 'billing'::text, 'viewer'::text])))
);
CREATE TABLE identity.organizations (
    organization_id uuid NOT NULL,
    name text NOT NULL,
    create_time timestamp with time zone NOT NULL,
    update_time timestamp with time zone NOT NULL,
    delete_time timestamp with time zone,
    version bigint DEFAULT 1 NOT NULL,
    personal boolean DEFAULT false NOT NULL,
    api_key_max_lifetime_s bigint,
    metadata jsonb DEFAULT '{}'::jsonb NOT NULL,
    external_id text DEFAULT ''::text NOT NULL,
    CONSTRAINT organizations_lifetime_is_positive CHECK ((api_key_max_lifetime_s > 0))
);
CREATE TABLE identity.project_members (
    organization_id uuid NOT NULL,
    project_id uuid NOT NULL,
    user_id uuid NOT NULL,
    role text NOT NULL,
    create_time timestamp with time zone NOT NULL,
    update_time timestamp with time zone NOT NULL,
    version bigint DEFAULT 1 NOT NULL,
    CONSTRAINT project_members_role_known CHECK ((role = ANY (ARRAY['admin'::text, 'member'::text])))
);
CREATE TABLE identity.projects (
    organization_id uuid NOT NULL,
    project_id uuid NOT NULL,
    name text NOT NULL,
    name_folded text NOT NULL,
    description text NOT NULL,
    create_time timestamp with time zone NOT NULL,
    update_time timestamp with time zone NOT NULL,
    delete_time timestamp with time zone,
    version bigint DEFAULT 1 NOT NULL,
    metadata jsonb DEFAULT '{}'::jsonb NOT NULL,
    external_id text DEFAULT ''::text NOT NULL
);
CREATE TABLE identity.refresh_tokens (
    digest bytea NOT NULL,
    session_id uuid NOT NULL,
    create_time timestamp with time zone NOT NULL,
    expire_time timestamp with time zone NOT NULL,
    use_time timestamp with time zone,
    successor_digest bytea,
    CONSTRAINT refresh_tokens_digest_only CHECK ((octet_length(digest) = 32)),
    CONSTRAINT refresh_tokens_used_has_a_successor CHECK (((use_time IS NULL) = (successor_digest IS NULL)))
);
CREATE TABLE identity.requests (
    organization_id uuid NOT NULL,
    method text NOT NULL,
    request_id text NOT NULL,
    field_digests jsonb NOT NULL,
    resource_id uuid NOT NULL,
    create_time timestamp with time zone NOT NULL
);
CREATE TABLE identity.revision_counter (
    single boolean NOT NULL,
    revision bigint NOT NULL,
    CONSTRAINT revision_counter_single CHECK (single)
);
CREATE TABLE identity.service_accounts (
    organization_id uuid NOT NULL,
    service_account_id uuid NOT NULL,
    name text NOT NULL,
    name_folded text NOT NULL,
    description text NOT NULL,
    role text NOT NULL,
    create_time timestamp with time zone NOT NULL,
    update_time timestamp with time zone NOT NULL,
    delete_time timestamp with time zone,
    version bigint DEFAULT 1 NOT NULL,
    metadata jsonb DEFAULT '{}'::jsonb NOT NULL,
    external_id text DEFAULT ''::text NOT NULL,
    CONSTRAINT service_accounts_role_known CHECK ((role = ANY (ARRAY['owner'::text, 'admin'::text, 'member'::text, 'billing'::text, 'viewer'::text])))
);
CREATE TABLE identity.sessions (
    session_id uuid NOT NULL,
    user_id uuid NOT NULL,
    method text NOT NULL,
    provider text NOT NULL,
    peer_address text NOT NULL,
    user_agent text NOT NULL,
    create_time timestamp with time zone NOT NULL,
    last_refresh_time timestamp with time zone NOT NULL,
    expire_time timestamp with time zone NOT NULL,
    end_time timestamp with time zone,
    end_reason text,
    CONSTRAINT sessions_end_has_a_reason CHECK (((end_time IS NULL) = (end_reason IS NULL))),
    CONSTRAINT sessions_method_known CHECK ((method = ANY (ARRAY['password'::text, 'id_token'::text, 'access_token'::text])))
);
CREATE TABLE identity.sign_in_attempts (
    key_digest bytea NOT NULL,
    window_time timestamp with time zone NOT NULL,
    attempts integer NOT NULL,
    CONSTRAINT sign_in_attempts_digest_only CHECK ((octet_length(key_digest) = 32))
);
CREATE TABLE identity.system_configurations (
    single boolean NOT NULL,
    entries jsonb NOT NULL,
    version bigint DEFAULT 1 NOT NULL,
    update_time timestamp with time zone NOT NULL,
    CONSTRAINT system_configurations_single CHECK (single)
);
CREATE TABLE identity.user_configurations (
    user_id uuid NOT NULL,
    entries jsonb NOT NULL,
    version bigint DEFAULT 1 NOT NULL,
    update_time timestamp with time zone NOT NULL
);
CREATE TABLE identity.users (
    user_id uuid NOT NULL,
    email text NOT NULL,
    email_folded text NOT NULL,
    username text,
    username_folded text,
    full_name text NOT NULL,
    picture_url text NOT NULL,
    create_time timestamp with time zone NOT NULL,
    update_time timestamp with time zone NOT NULL,
    deactivate_time timestamp with time zone,
    delete_time timestamp with time zone,
    email_verify_time timestamp with time zone,
    platform_role text DEFAULT 'user'::text NOT NULL,
    password_hash text,
    password_change_time timestamp with time zone,
    last_sign_in_time timestamp with time zone,
    last_selected_organization_id uuid,
    last_selected_project_id uuid,
    personal_organization_id uuid,
    deleted_name text DEFAULT ''::text NOT NULL,
    version bigint DEFAULT 1 NOT NULL,
    metadata jsonb DEFAULT '{}'::jsonb NOT NULL,
    external_id text DEFAULT ''::text NOT NULL,
    CONSTRAINT users_have_an_organization CHECK ((personal_organization_id IS NOT NULL)),
    CONSTRAINT users_platform_role_known CHECK ((platform_role = ANY (ARRAY['user'::text, 'admin'::text, 'admin_readonly'::text])))
);
CREATE TABLE metering.alembic_version (
    version_num character varying(32) NOT NULL
);
CREATE TABLE metering.audit_events (
    organization_id uuid NOT NULL,
    sequence bigint NOT NULL,
    event_id uuid NOT NULL,
    event_time timestamp with time zone NOT NULL,
    action text NOT NULL,
    actor text NOT NULL,
    api_key_id uuid,
    resource_type text NOT NULL,
    resource_id text NOT NULL,
    changes jsonb NOT NULL,
    peer_address text NOT NULL,
    user_agent text NOT NULL,
    request_id text NOT NULL,
    previous_hash bytea NOT NULL,
    hash bytea NOT NULL,
    CONSTRAINT audit_events_hashes CHECK (((octet_length(previous_hash) = 32) AND (octet_length(hash) = 32))),
    CONSTRAINT audit_events_sequence_from_one CHECK ((sequence > 0))
);
CREATE TABLE metering.audit_heads (
    organization_id uuid NOT NULL,
    sequence bigint NOT NULL,
    hash bytea NOT NULL,
    event_time timestamp with time zone NOT NULL,
    CONSTRAINT audit_heads_hash CHECK ((octet_length(hash) = 32))
);
CREATE TABLE metering.authorizations (
    organization_id uuid NOT NULL,
    operation_id text NOT NULL COLLATE pg_catalog."C",
    fingerprint bytea NOT NULL,
    project_id uuid,
    user_id uuid,
    service_account_id uuid,
    api_key_id uuid,
    model text NOT NULL,
    endpoint text,
    input_tokens bigint NOT NULL,
    max_output_tokens bigint NOT NULL,
    hold_ttl_ms bigint NOT NULL,
    price_version_id uuid NOT NULL,
    currency_code text NOT NULL,
    amount numeric(28,9) NOT NULL,
    cancelled boolean DEFAULT false NOT NULL,
    create_time timestamp with time zone NOT NULL,
    CONSTRAINT authorizations_amount_not_negative CHECK ((amount >= (0)::numeric))
);
CREATE TABLE metering.catalogue_requests (
    request_id text NOT NULL COLLATE pg_catalog."C",
    rpc text NOT NULL,
    request bytea NOT NULL,
    response bytea NOT NULL,
    create_time timestamp with time zone NOT NULL
);
CREATE TABLE metering.catalogue_state (
    singleton boolean DEFAULT true NOT NULL,
    revision bigint NOT NULL,
    CONSTRAINT catalogue_state_one_row CHECK (singleton)
);
CREATE TABLE metering.models (
    model_id text NOT NULL COLLATE pg_catalog."C",
    provider text NOT NULL,
    display_name text NOT NULL,
    description text NOT NULL,
    capabilities text[] NOT NULL,
    context_length bigint NOT NULL,
    max_output_tokens bigint NOT NULL,
    active boolean NOT NULL,
    metadata jsonb NOT NULL,
    revision bigint NOT NULL,
    create_time timestamp with time zone NOT NULL,
    update_time timestamp with time zone NOT NULL
);
CREATE TABLE metering.outbox (
    organization_id uuid NOT NULL,
    operation_id text NOT NULL COLLATE pg_catalog."C",
    kind text NOT NULL,
    state text NOT NULL,
    amount numeric(28,9) NOT NULL,
    currency_code text NOT NULL,
    project_id uuid,
    description text NOT NULL,
    attempt_count integer NOT NULL,
    last_error_reason text,
    next_attempt_time timestamp with time zone NOT NULL,
    create_time timestamp with time zone NOT NULL,
    CONSTRAINT outbox_kind CHECK ((kind = ANY (ARRAY['DEBIT'::text, 'CAPTURE'::text]))),
    CONSTRAINT outbox_state_known CHECK ((state = ANY (ARRAY['PENDING'::text, 'REFUSED'::text, 'DEAD'::text])))
)
WITH (fillfactor='70', autovacuum_vacuum_scale_factor='0.0', autovacuum_vacuum_threshold='5000');
CREATE TABLE metering.price_versions (
    price_version_id uuid NOT NULL,
    organization_id uuid,
    model_id text NOT NULL COLLATE pg_catalog."C",
    currency_code text NOT NULL,
    input numeric(28,9) NOT NULL,
    output numeric(28,9) NOT NULL,
    cache_read numeric(28,9),
    cache_write numeric(28,9),
    reasoning numeric(28,9),
    audio_input numeric(28,9),
    audio_output numeric(28,9),
    image numeric(28,9),
    per_request numeric(28,9),
    effective_time timestamp with time zone NOT NULL,
    create_time timestamp with time zone NOT NULL,
    source text NOT NULL,
    revision bigint NOT NULL,
    CONSTRAINT price_versions_not_negative CHECK ((LEAST(input, output, cache_read, cache_write, reasoning, audio_input, audio_output, image, per_request) >= (0)::numeric))
);
CREATE TABLE metering.unpriced_usages (
    organization_id uuid NOT NULL,
    usage_id uuid NOT NULL,
    occur_time timestamp with time zone NOT NULL,
    model text NOT NULL COLLATE pg_catalog."C"
);
CREATE TABLE metering.usage_hours (
    organization_id uuid NOT NULL,
    hour timestamp with time zone NOT NULL,
    model text NOT NULL COLLATE pg_catalog."C",
    project_id uuid NOT NULL,
    user_id uuid NOT NULL,
    api_key_id uuid NOT NULL,
    currency_code text NOT NULL COLLATE pg_catalog."C",
    requests bigint NOT NULL,
    errors bigint NOT NULL,
    input bigint NOT NULL,
    output bigint NOT NULL,
    cache_read bigint NOT NULL,
    cache_write bigint NOT NULL,
    reasoning bigint NOT NULL,
    audio_input bigint NOT NULL,
    audio_output bigint NOT NULL,
    image bigint NOT NULL,
    cost numeric(28,9) NOT NULL,
    latency_count bigint NOT NULL,
    latency_sum_ms bigint NOT NULL,
    latency_le_10_ms bigint NOT NULL,
    latency_le_25_ms bigint NOT NULL,
    latency_le_50_ms bigint NOT NULL,
    latency_le_100_ms bigint NOT NULL,
    latency_le_250_ms bigint NOT NULL,
    latency_le_500_ms bigint NOT NULL,
    latency_le_1000_ms bigint NOT NULL,
    latency_le_2500_ms bigint NOT NULL,
    latency_le_5000_ms bigint NOT NULL,
    latency_le_10000_ms bigint NOT NULL,
    latency_le_30000_ms bigint NOT NULL,
    latency_le_60000_ms bigint NOT NULL,
    latency_over_60000_ms bigint NOT NULL
)
WITH (fillfactor='70');
CREATE TABLE metering.usage_operations (
    organization_id uuid NOT NULL,
    operation_id text NOT NULL COLLATE pg_catalog."C",
    fingerprint bytea NOT NULL,
    usage_id uuid NOT NULL,
    occur_time timestamp with time zone NOT NULL
);
CREATE TABLE metering.usage_pricings (
    organization_id uuid NOT NULL,
    usage_id uuid NOT NULL,
    cost numeric(28,9) NOT NULL,
    currency_code text NOT NULL,
    price_version_id uuid NOT NULL,
    charge_kind text,
    create_time timestamp with time zone NOT NULL,
    CONSTRAINT usage_pricings_charge_kind CHECK ((charge_kind = ANY (ARRAY['DEBIT'::text, 'CAPTURE'::text])))
);
CREATE TABLE metering.usage_records (
    organization_id uuid NOT NULL,
    occur_time timestamp with time zone NOT NULL,
    usage_id uuid NOT NULL,
    operation_id text NOT NULL COLLATE pg_catalog."C",
    project_id uuid,
    user_id uuid,
    api_key_id uuid,
    subscription_id uuid,
    model text NOT NULL,
    input bigint NOT NULL,
    output bigint NOT NULL,
    cache_read bigint NOT NULL,
    cache_write bigint NOT NULL,
    reasoning bigint NOT NULL,
    audio_input bigint NOT NULL,
    audio_output bigint NOT NULL,
    image bigint NOT NULL,
    latency_ms bigint,
    status_code integer,
    error_message text,
    endpoint text,
    conversation_id text,
    labels jsonb,
    partial boolean NOT NULL,
    cost numeric(28,9),
    currency_code text,
    price_version_id uuid,
    charge_kind text,
    create_time timestamp with time zone NOT NULL,
    CONSTRAINT usage_records_charge_kind CHECK ((charge_kind = ANY (ARRAY['DEBIT'::text, 'CAPTURE'::text]))),
    CONSTRAINT usage_records_cost_whole CHECK ((num_nulls(cost, currency_code, price_version_id) = ANY (ARRAY[0, 3]))),
    CONSTRAINT usage_records_not_negative CHECK ((LEAST(input, output, cache_read, cache_write, reasoning, audio_input, audio_output, image) >= 0))
)
PARTITION BY RANGE (occur_time);
CREATE TABLE metering.usage_records_2026_09 (
    organization_id uuid CONSTRAINT usage_records_organization_id_not_null NOT NULL,
    occur_time timestamp with time zone CONSTRAINT usage_records_occur_time_not_null NOT NULL,
    usage_id uuid CONSTRAINT usage_records_usage_id_not_null NOT NULL,
    operation_id text CONSTRAINT usage_records_operation_id_not_null NOT NULL COLLATE pg_catalog."C",
    project_id uuid,
    user_id uuid,
    api_key_id uuid,
    subscription_id uuid,
    model text CONSTRAINT usage_records_model_not_null NOT NULL,
    input bigint CONSTRAINT usage_records_input_not_null NOT NULL,
    output bigint CONSTRAINT usage_records_output_not_null NOT NULL,
    cache_read bigint CONSTRAINT usage_records_cache_read_not_null NOT NULL,
    cache_write bigint CONSTRAINT usage_records_cache_write_not_null NOT NULL,
    reasoning bigint CONSTRAINT usage_records_reasoning_not_null NOT NULL,
    audio_input bigint CONSTRAINT usage_records_audio_input_not_null NOT NULL,
    audio_output bigint CONSTRAINT usage_records_audio_output_not_null NOT NULL,
    image bigint CONSTRAINT usage_records_image_not_null NOT NULL,
    latency_ms bigint,
    status_code integer,
    error_message text,
    endpoint text,
    conversation_id text,
    labels jsonb,
    partial boolean CONSTRAINT usage_records_partial_not_null NOT NULL,
    cost numeric(28,9),
    currency_code text,
    price_version_id uuid,
    charge_kind text,
    create_time timestamp with time zone CONSTRAINT usage_records_create_time_not_null NOT NULL,
    CONSTRAINT usage_records_charge_kind CHECK ((charge_kind = ANY (ARRAY['DEBIT'::text, 'CAPTURE'::text]))),
    CONSTRAINT usage_records_cost_whole CHECK ((num_nulls(cost, currency_code, price_version_id) = ANY (ARRAY[0, 3]))),
    CONSTRAINT usage_records_not_negative CHECK ((LEAST(input, output, cache_read, cache_write, reasoning, audio_input, audio_output, image) >= 0))
);
CREATE TABLE metering.usage_records_2026_10 (
    organization_id uuid CONSTRAINT usage_records_organization_id_not_null NOT NULL,
    occur_time timestamp with time zone CONSTRAINT usage_records_occur_time_not_null NOT NULL,
    usage_id uuid CONSTRAINT usage_records_usage_id_not_null NOT NULL,
    operation_id text CONSTRAINT usage_records_operation_id_not_null NOT NULL COLLATE pg_catalog."C",
    project_id uuid,
    user_id uuid,
    api_key_id uuid,
    subscription_id uuid,
    model text CONSTRAINT usage_records_model_not_null NOT NULL,
    input bigint CONSTRAINT usage_records_input_not_null NOT NULL,
    output bigint CONSTRAINT usage_records_output_not_null NOT NULL,
    cache_read bigint CONSTRAINT usage_records_cache_read_not_null NOT NULL,
    cache_write bigint CONSTRAINT usage_records_cache_write_not_null NOT NULL,
    reasoning bigint CONSTRAINT usage_records_reasoning_not_null NOT NULL,
    audio_input bigint CONSTRAINT usage_records_audio_input_not_null NOT NULL,
    audio_output bigint CONSTRAINT usage_records_audio_output_not_null NOT NULL,
    image bigint CONSTRAINT usage_records_image_not_null NOT NULL,
    latency_ms bigint,
    status_code integer,
    error_message text,
    endpoint text,
    conversation_id text,
    labels jsonb,
    partial boolean CONSTRAINT usage_records_partial_not_null NOT NULL,
    cost numeric(28,9),
    currency_code text,
    price_version_id uuid,
    charge_kind text,
    create_time timestamp with time zone CONSTRAINT usage_records_create_time_not_null NOT NULL,
    CONSTRAINT usage_records_charge_kind CHECK ((charge_kind = ANY (ARRAY['DEBIT'::text, 'CAPTURE'::text]))),
    CONSTRAINT usage_records_cost_whole CHECK ((num_nulls(cost, currency_code, price_version_id) = ANY (ARRAY[0, 3]))),
    CONSTRAINT usage_records_not_negative CHECK ((LEAST(input, output, cache_read, cache_write, reasoning, audio_input, audio_output, image) >= 0))
);
CREATE TABLE metering.usage_records_2026_11 (
    organization_id uuid CONSTRAINT usage_records_organization_id_not_null NOT NULL,
    occur_time timestamp with time zone CONSTRAINT usage_records_occur_time_not_null NOT NULL,
    usage_id uuid CONSTRAINT usage_records_usage_id_not_null NOT NULL,
    operation_id text CONSTRAINT usage_records_operation_id_not_null NOT NULL COLLATE pg_catalog."C",
    project_id uuid,
    user_id uuid,
    api_key_id uuid,
    subscription_id uuid,
    model text CONSTRAINT usage_records_model_not_null NOT NULL,
    input bigint CONSTRAINT usage_records_input_not_null NOT NULL,
    output bigint CONSTRAINT usage_records_output_not_null NOT NULL,
    cache_read bigint CONSTRAINT usage_records_cache_read_not_null NOT NULL,
    cache_write bigint CONSTRAINT usage_records_cache_write_not_null NOT NULL,
    reasoning bigint CONSTRAINT usage_records_reasoning_not_null NOT NULL,
    audio_input bigint CONSTRAINT usage_records_audio_input_not_null NOT NULL,
    audio_output bigint CONSTRAINT usage_records_audio_output_not_null NOT NULL,
    image bigint CONSTRAINT usage_records_image_not_null NOT NULL,
    latency_ms bigint,
    status_code integer,
    error_message text,
    endpoint text,
    conversation_id text,
    labels jsonb,
    partial boolean CONSTRAINT usage_records_partial_not_null NOT NULL,
    cost numeric(28,9),
    currency_code text,
    price_version_id uuid,
    charge_kind text,
    create_time timestamp with time zone CONSTRAINT usage_records_create_time_not_null NOT NULL,
    CONSTRAINT usage_records_charge_kind CHECK ((charge_kind = ANY (ARRAY['DEBIT'::text, 'CAPTURE'::text]))),
    CONSTRAINT usage_records_cost_whole CHECK ((num_nulls(cost, currency_code, price_version_id) = ANY (ARRAY[0, 3]))),
    CONSTRAINT usage_records_not_negative CHECK ((LEAST(input, output, cache_read, cache_write, reasoning, audio_input, audio_output, image) >= 0))
);
CREATE TABLE metering.usage_records_2026_12 (
    organization_id uuid CONSTRAINT usage_records_organization_id_not_null NOT NULL,
    occur_time timestamp with time zone CONSTRAINT usage_records_occur_time_not_null NOT NULL,
    usage_id uuid CONSTRAINT usage_records_usage_id_not_null NOT NULL,
    operation_id text CONSTRAINT usage_records_operation_id_not_null NOT NULL COLLATE pg_catalog."C",
    project_id uuid,
    user_id uuid,
    api_key_id uuid,
    subscription_id uuid,
    model text CONSTRAINT usage_records_model_not_null NOT NULL,
    input bigint CONSTRAINT usage_records_input_not_null NOT NULL,
    output bigint CONSTRAINT usage_records_output_not_null NOT NULL,
    cache_read bigint CONSTRAINT usage_records_cache_read_not_null NOT NULL,
    cache_write bigint CONSTRAINT usage_records_cache_write_not_null NOT NULL,
    reasoning bigint CONSTRAINT usage_records_reasoning_not_null NOT NULL,
    audio_input bigint CONSTRAINT usage_records_audio_input_not_null NOT NULL,
    audio_output bigint CONSTRAINT usage_records_audio_output_not_null NOT NULL,
    image bigint CONSTRAINT usage_records_image_not_null NOT NULL,
    latency_ms bigint,
    status_code integer,
    error_message text,
    endpoint text,
    conversation_id text,
    labels jsonb,
    partial boolean CONSTRAINT usage_records_partial_not_null NOT NULL,
    cost numeric(28,9),
    currency_code text,
    price_version_id uuid,
    charge_kind text,
    create_time timestamp with time zone CONSTRAINT usage_records_create_time_not_null NOT NULL,
    CONSTRAINT usage_records_charge_kind CHECK ((charge_kind = ANY (ARRAY['DEBIT'::text, 'CAPTURE'::text]))),
    CONSTRAINT usage_records_cost_whole CHECK ((num_nulls(cost, currency_code, price_version_id) = ANY (ARRAY[0, 3]))),
    CONSTRAINT usage_records_not_negative CHECK ((LEAST(input, output, cache_read, cache_write, reasoning, audio_input, audio_output, image) >= 0))
);
CREATE TABLE metering.usage_records_2027_01 (
    organization_id uuid CONSTRAINT usage_records_organization_id_not_null NOT NULL,
    occur_time timestamp with time zone CONSTRAINT usage_records_occur_time_not_null NOT NULL,
    usage_id uuid CONSTRAINT usage_records_usage_id_not_null NOT NULL,
    operation_id text CONSTRAINT usage_records_operation_id_not_null NOT NULL COLLATE pg_catalog."C",
    project_id uuid,
    user_id uuid,
    api_key_id uuid,
    subscription_id uuid,
    model text CONSTRAINT usage_records_model_not_null NOT NULL,
    input bigint CONSTRAINT usage_records_input_not_null NOT NULL,
    output bigint CONSTRAINT usage_records_output_not_null NOT NULL,
    cache_read bigint CONSTRAINT usage_records_cache_read_not_null NOT NULL,
    cache_write bigint CONSTRAINT usage_records_cache_write_not_null NOT NULL,
    reasoning bigint CONSTRAINT usage_records_reasoning_not_null NOT NULL,
    audio_input bigint CONSTRAINT usage_records_audio_input_not_null NOT NULL,
    audio_output bigint CONSTRAINT usage_records_audio_output_not_null NOT NULL,
    image bigint CONSTRAINT usage_records_image_not_null NOT NULL,
    latency_ms bigint,
    status_code integer,
    error_message text,
    endpoint text,
    conversation_id text,
    labels jsonb,
    partial boolean CONSTRAINT usage_records_partial_not_null NOT NULL,
    cost numeric(28,9),
    currency_code text,
    price_version_id uuid,
    charge_kind text,
    create_time timestamp with time zone CONSTRAINT usage_records_create_time_not_null NOT NULL,
    CONSTRAINT usage_records_charge_kind CHECK ((charge_kind = ANY (ARRAY['DEBIT'::text, 'CAPTURE'::text]))),
    CONSTRAINT usage_records_cost_whole CHECK ((num_nulls(cost, currency_code, price_version_id) = ANY (ARRAY[0, 3]))),
    CONSTRAINT usage_records_not_negative CHECK ((LEAST(input, output, cache_read, cache_write, reasoning, audio_input, audio_output, image) >= 0))
);
CREATE TABLE metering.usage_records_2027_02 (
    organization_id uuid CONSTRAINT usage_records_organization_id_not_null NOT NULL,
    occur_time timestamp with time zone CONSTRAINT usage_records_occur_time_not_null NOT NULL,
    usage_id uuid CONSTRAINT usage_records_usage_id_not_null NOT NULL,
    operation_id text CONSTRAINT usage_records_operation_id_not_null NOT NULL COLLATE pg_catalog."C",
    project_id uuid,
    user_id uuid,
    api_key_id uuid,
    subscription_id uuid,
    model text CONSTRAINT usage_records_model_not_null NOT NULL,
    input bigint CONSTRAINT usage_records_input_not_null NOT NULL,
    output bigint CONSTRAINT usage_records_output_not_null NOT NULL,
    cache_read bigint CONSTRAINT usage_records_cache_read_not_null NOT NULL,
    cache_write bigint CONSTRAINT usage_records_cache_write_not_null NOT NULL,
    reasoning bigint CONSTRAINT usage_records_reasoning_not_null NOT NULL,
    audio_input bigint CONSTRAINT usage_records_audio_input_not_null NOT NULL,
    audio_output bigint CONSTRAINT usage_records_audio_output_not_null NOT NULL,
    image bigint CONSTRAINT usage_records_image_not_null NOT NULL,
    latency_ms bigint,
    status_code integer,
    error_message text,
    endpoint text,
    conversation_id text,
    labels jsonb,
    partial boolean CONSTRAINT usage_records_partial_not_null NOT NULL,
    cost numeric(28,9),
    currency_code text,
    price_version_id uuid,
    charge_kind text,
    create_time timestamp with time zone CONSTRAINT usage_records_create_time_not_null NOT NULL,
    CONSTRAINT usage_records_charge_kind CHECK ((charge_kind = ANY (ARRAY['DEBIT'::text, 'CAPTURE'::text]))),
    CONSTRAINT usage_records_cost_whole CHECK ((num_nulls(cost, currency_code, price_version_id) = ANY (ARRAY[0, 3]))),
    CONSTRAINT usage_records_not_negative CHECK ((LEAST(input, output, cache_read, cache_write, reasoning, audio_input, audio_output, image) >= 0))
);
CREATE TABLE metering.usage_records_default (
    organization_id uuid CONSTRAINT usage_records_organization_id_not_null NOT NULL,
    occur_time timestamp with time zone CONSTRAINT usage_records_occur_time_not_null NOT NULL,
    usage_id uuid CONSTRAINT usage_records_usage_id_not_null NOT NULL,
    operation_id text CONSTRAINT usage_records_operation_id_not_null NOT NULL COLLATE pg_catalog."C",
    project_id uuid,
    user_id uuid,
    api_key_id uuid,
    subscription_id uuid,
    model text CONSTRAINT usage_records_model_not_null NOT NULL,
    input bigint CONSTRAINT usage_records_input_not_null NOT NULL,
    output bigint CONSTRAINT usage_records_output_not_null NOT NULL,
    cache_read bigint CONSTRAINT usage_records_cache_read_not_null NOT NULL,
    cache_write bigint CONSTRAINT usage_records_cache_write_not_null NOT NULL,
    reasoning bigint CONSTRAINT usage_records_reasoning_not_null NOT NULL,
    audio_input bigint CONSTRAINT usage_records_audio_input_not_null NOT NULL,
    audio_output bigint CONSTRAINT usage_records_audio_output_not_null NOT NULL,
    image bigint CONSTRAINT usage_records_image_not_null NOT NULL,
    latency_ms bigint,
    status_code integer,
    error_message text,
    endpoint text,
    conversation_id text,
    labels jsonb,
    partial boolean CONSTRAINT usage_records_partial_not_null NOT NULL,
    cost numeric(28,9),
    currency_code text,
    price_version_id uuid,
    charge_kind text,
    create_time timestamp with time zone CONSTRAINT usage_records_create_time_not_null NOT NULL,
    CONSTRAINT usage_records_charge_kind CHECK ((charge_kind = ANY (ARRAY['DEBIT'::text, 'CAPTURE'::text]))),
    CONSTRAINT usage_records_cost_whole CHECK ((num_nulls(cost, currency_code, price_version_id) = ANY (ARRAY[0, 3]))),
    CONSTRAINT usage_records_not_negative CHECK ((LEAST(input, output, cache_read, cache_write, reasoning, audio_input, audio_output, image) >= 0))
);
ALTER TABLE ONLY metering.usage_records ATTACH PARTITION metering.usage_records_2026_09 FOR VALUES FROM ('2026-09-01 00:00:00+00') TO ('2026-10-01 00:00:00+00');
ALTER TABLE ONLY metering.usage_records ATTACH PARTITION metering.usage_records_2026_10 FOR VALUES FROM ('2026-10-01 00:00:00+00') TO ('2026-11-01 00:00:00+00');
ALTER TABLE ONLY metering.usage_records ATTACH PARTITION metering.usage_records_2026_11 FOR VALUES FROM ('2026-11-01 00:00:00+00') TO ('2026-12-01 00:00:00+00');
ALTER TABLE ONLY metering.usage_records ATTACH PARTITION metering.usage_records_2026_12 FOR VALUES FROM ('2026-12-01 00:00:00+00') TO ('2027-01-01 00:00:00+00');
ALTER TABLE ONLY metering.usage_records ATTACH PARTITION metering.usage_records_2027_01 FOR VALUES FROM ('2027-01-01 00:00:00+00') TO ('2027-02-01 00:00:00+00');
ALTER TABLE ONLY metering.usage_records ATTACH PARTITION metering.usage_records_2027_02 FOR VALUES FROM ('2027-02-01 00:00:00+00') TO ('2027-03-01 00:00:00+00');
ALTER TABLE ONLY metering.usage_records ATTACH PARTITION metering.usage_records_default DEFAULT;
INSERT INTO billing.accounts VALUES
	('01a21591-d781-72d3-91d4-64e3319ae858', '01a21591-d9a5-7f3a-b68b-61e4a05f5d4d', '01a21591-d781-72d3-91d4-64e3319ae858', 'USD', 100.968097250, 0.000000000, 11, 0.000000000, 'OPEN', NULL, '2026-11-26 01:56:49.822664+00', 1, 1, NULL, NULL, NULL, '2026-11-26 01:56:49.700681+00', '2026-11-26 01:56:49.700681+00'),
	('01a21591-d8d2-710a-bb84-b2e9d72a4108', '01a21591-d9b0-7010-aaba-e45bce9d0b2b', '01a21591-d8d2-710a-bb84-b2e9d72a4108', 'USD', 100.994256050, 0.000000000, 3, 0.000000000, 'OPEN', NULL, '2026-11-26 01:56:49.822664+00', 1, 1, NULL, NULL, NULL, '2026-11-26 01:56:49.712412+00', '2026-11-26 01:56:49.712412+00'),
	('01a21591-d92d-7608-b484-8558c02f4cd8', '01a21591-d9b2-73c3-86f3-2897207dcf16', '01a21591-d92d-7608-b484-8558c02f4cd8', 'USD', 100.998760400, 0.000000000, 2, 0.000000000, 'OPEN', NULL, '2026-11-26 01:56:49.822664+00', 1, 1, NULL, NULL, NULL, '2026-11-26 01:56:49.71477+00', '2026-11-26 01:56:49.71477+00'),
	('01a21591-dc3d-7a32-960b-c28a8913c46a', '01a21591-dc77-711e-b8a9-b3b0572ae271', '01a21591-dc3d-7a32-960b-c28a8913c46a', 'USD', 0.001000000, 0.000000000, 1, 0.000000000, 'OPEN', NULL, '2026-11-26 01:56:50.423678+00', 1, 2, NULL, NULL, NULL, '2026-11-26 01:56:50.423678+00', '2026-11-26 01:56:50.423678+00'),
	('01a21591-d819-7f2b-9f47-663bd3ad93fd', '01a21591-d9a9-7e46-8647-f58c9c346b11', '01a21591-d819-7f2b-9f47-663bd3ad93fd', 'USD', 100.996967300, 0.000000000, 5, 0.000000000, 'OPEN', '2026-11-26 02:06:49.833538+00', '2026-11-26 01:56:49.867287+00', 1, 3, NULL, NULL, NULL, '2026-11-26 01:56:49.705197+00', '2026-11-26 01:56:49.705197+00'),
	('01a21591-d248-7f3c-b264-e85ced818edb', '01a21591-d98b-7938-acb6-ff793b544940', '01a21591-d248-7f3c-b264-e85ced818edb', 'USD', 100.948043600, 0.000000000, 24, 0.000000000, 'OPEN', '2026-11-26 02:06:49.857279+00', '2026-11-26 01:56:49.879051+00', 1, 3, NULL, NULL, NULL, '2026-11-26 01:56:49.672635+00', '2026-11-26 01:56:49.672635+00'),
	('01a21591-dc36-70e6-b96b-67e2f6bfa593', '01a21591-dc6e-7b2c-bec2-72a17a2b25ec', '01a21591-dc36-70e6-b96b-67e2f6bfa593', 'EUR', 100.000000000, 0.000000000, 1, 0.000000000, 'OPEN', NULL, '2026-11-26 01:56:50.414369+00', 1, 0, NULL, NULL, NULL, '2026-11-26 01:56:50.414369+00', '2026-11-26 01:56:50.414369+00'),
	('01a21591-dc2c-769a-824b-3114acd37b48', '01a21591-dc54-7e4e-ae6d-0e6722dcc010', '01a21591-dc2c-769a-824b-3114acd37b48', 'USD', 93.482150000, 1.510400000, 8, 5.000000000, 'OPEN', '2026-11-26 02:06:50.510263+00', '2026-11-26 01:56:50.658868+00', 1, 16, 'a1', '{"metadata": null, "project_id": null, "currency_code": "USD", "overdraft_limit": "5"}', NULL, '2026-11-26 01:56:50.387169+00', '2026-11-26 01:56:50.387169+00');
INSERT INTO billing.alembic_version VALUES
	('0003');
INSERT INTO billing.audit_events VALUES
	('01a21591-dc2c-769a-824b-3114acd37b48', 1, '01a21591-dc55-7acc-8b14-914e3cbff53c', '2026-11-26 01:56:50.387169+00', 'OpenAccount', 'operator:cli', NULL, 'account', '01a21591-dc54-7e4e-ae6d-0e6722dcc010', '[{"after": "OPEN", "field": "state", "before": null}, {"after": "USD", "field": "currency_code", "before": null}, {"after": "5", "field": "overdraft_limit", "before": null}]', '127.0.0.1', 'grpc-python-asyncio/1.85.1 grpc-c/58.0.0 (linux; chttp2)', 'a1', '\x0000000000000000000000000000000000000000000000000000000000000000', '\x4247102edf0d42d6bf31ed03b82e59c72905ec52c1937aca9a6926c6738531f9');
INSERT INTO billing.audit_heads VALUES
	('01a21591-dc2c-769a-824b-3114acd37b48', 1, '\x4247102edf0d42d6bf31ed03b82e59c72905ec52c1937aca9a6926c6738531f9', '2026-11-26 01:56:50.387169+00');
INSERT INTO billing.declines VALUES
	('01a21591-dc3d-7a32-960b-c28a8913c46a', 'too-much', 'MOVEMENT', 'INSUFFICIENT_BALANCE', '{"kind": "DEBIT", "mode": "GUARDED", "amount": "50", "metadata": null, "project_id": null, "description": "", "currency_code": "USD"}', '{"held": "0E-9", "needed": "50", "posted": "0.001000000", "sequence": 1, "account_id": "01a21591-dc77-711e-b8a9-b3b0572ae271", "currency_code": "USD", "overdraft_limit": "0E-9", "earliest_release_time": null}', '2026-11-26 01:56:50.467099+00', 'operator:cli'),
	('01a21591-dc3d-7a32-960b-c28a8913c46a', 'call-denied', 'HOLD', 'INSUFFICIENT_BALANCE', '{"kind": "HOLD", "amount": "0.0156", "ttl_ms": 600000, "metadata": null, "project_id": null, "description": "swift-1", "currency_code": "USD"}', '{"held": "0E-9", "needed": "0.015600000", "posted": "0.001000000", "sequence": 1, "account_id": "01a21591-dc77-711e-b8a9-b3b0572ae271", "currency_code": "USD", "overdraft_limit": "0E-9", "earliest_release_time": null}', '2026-11-26 01:56:50.556827+00', 'service:metering');
INSERT INTO billing.holds VALUES
	('01a21591-d819-7f2b-9f47-663bd3ad93fd', 'before:3', '01a21591-da2a-7bb9-82e9-f41a3de4b589', '01a21591-d846-79e8-a575-b04a50e9ece2', '01a21591-d9a9-7e46-8647-f58c9c346b11', 'USD', 0.000547500, 600000, 'CAPTURED', 'gpt-4o', NULL, '2026-11-26 01:56:49.833538+00', '2026-11-26 02:06:49.833538+00', '2026-11-26 01:56:49.867287+00', 'service:metering'),
	('01a21591-d248-7f3c-b264-e85ced818edb', 'before:30', '01a21591-da41-7431-a82c-0f96ba8bf468', '01a21591-d3bf-7946-a686-4a4c64f29467', '01a21591-d98b-7938-acb6-ff793b544940', 'USD', 0.007567500, 600000, 'CAPTURED', 'gpt-4o', NULL, '2026-11-26 01:56:49.857279+00', '2026-11-26 02:06:49.857279+00', '2026-11-26 01:56:49.879051+00', 'service:metering'),
	('01a21591-dc2c-769a-824b-3114acd37b48', 'hold-open', '01a21591-dcab-7d55-b421-12f8ae14902f', NULL, '01a21591-dc54-7e4e-ae6d-0e6722dcc010', 'USD', 1.500000000, 86400000, 'OPEN', NULL, NULL, '2026-11-26 01:56:50.474519+00', '2026-11-27 01:56:50.474519+00', NULL, 'operator:cli'),
	('01a21591-dc2c-769a-824b-3114acd37b48', 'hold-released', '01a21591-dcb3-7e2b-af0c-8b7d166c141a', NULL, '01a21591-dc54-7e4e-ae6d-0e6722dcc010', 'USD', 1.500000000, 86400000, 'RELEASED', NULL, NULL, '2026-11-26 01:56:50.482801+00', '2026-11-27 01:56:50.482801+00', '2026-11-26 01:56:50.496396+00', 'operator:cli'),
	('01a21591-dc2c-769a-824b-3114acd37b48', 'hold-captured', '01a21591-dcbb-7b91-8770-e9364a58a555', NULL, '01a21591-dc54-7e4e-ae6d-0e6722dcc010', 'USD', 1.500000000, 86400000, 'CAPTURED', NULL, NULL, '2026-11-26 01:56:50.491173+00', '2026-11-27 01:56:50.491173+00', '2026-11-26 01:56:50.500004+00', 'operator:cli'),
	('01a21591-dc2c-769a-824b-3114acd37b48', 'call-open', '01a21591-dcdb-71b4-bf0a-fa259125089e', NULL, '01a21591-dc54-7e4e-ae6d-0e6722dcc010', 'USD', 0.010400000, 600000, 'OPEN', 'swift-1', NULL, '2026-11-26 01:56:50.522842+00', '2026-11-26 02:06:50.522842+00', NULL, 'service:metering'),
	('01a21591-dc2c-769a-824b-3114acd37b48', 'call-settled', '01a21591-dcce-75b2-b652-5824915017f9', NULL, '01a21591-dc54-7e4e-ae6d-0e6722dcc010', 'USD', 0.010400000, 600000, 'CAPTURED', 'swift-1', NULL, '2026-11-26 01:56:50.510263+00', '2026-11-26 02:06:50.510263+00', '2026-11-26 01:56:50.582546+00', 'service:metering'),
	('01a21591-dc2c-769a-824b-3114acd37b48', 'call-cancelled', '01a21591-dce7-7431-8b7f-a6c34b1ce729', NULL, '01a21591-dc54-7e4e-ae6d-0e6722dcc010', 'USD', 0.010400000, 600000, 'RELEASED', 'swift-1', NULL, '2026-11-26 01:56:50.534662+00', '2026-11-26 02:06:50.534662+00', '2026-11-26 01:56:50.598543+00', 'service:metering');
INSERT INTO billing.transactions VALUES
	('01a21591-d248-7f3c-b264-e85ced818edb', 'before:funds', '01a21591-d98b-7a24-a09e-ecc6615a898e', 'CREDIT', NULL, '01a21591-d98b-7938-acb6-ff793b544940', 1, 'CREDIT', 'USD', 101.000000000, 101.000000000, 101.000000000, NULL, false, 'PAYMENTS', NULL, NULL, NULL, NULL, NULL, NULL, 'Prepaid for the calls of t.csv', '{"trace": "90cac61e067cb1ca", "end_time": "2026-11-26T01:56:49.615111+00:00"}', '2026-11-26 01:56:49.672635+00', 'operator:cli'),
	('01a21591-d781-72d3-91d4-64e3319ae858', 'before:funds', '01a21591-d9a5-774e-95fb-154ca73ed75a', 'CREDIT', NULL, '01a21591-d9a5-7f3a-b68b-61e4a05f5d4d', 1, 'CREDIT', 'USD', 101.000000000, 101.000000000, 101.000000000, NULL, false, 'PAYMENTS', NULL, NULL, NULL, NULL, NULL, NULL, 'Prepaid for the calls of t.csv', '{"trace": "90cac61e067cb1ca", "end_time": "2026-11-26T01:56:49.615111+00:00"}', '2026-11-26 01:56:49.700681+00', 'operator:cli'),
	('01a21591-d819-7f2b-9f47-663bd3ad93fd', 'before:funds', '01a21591-d9a9-77c8-8cfa-540258062d23', 'CREDIT', NULL, '01a21591-d9a9-7e46-8647-f58c9c346b11', 1, 'CREDIT', 'USD', 101.000000000, 101.000000000, 101.000000000, NULL, false, 'PAYMENTS', NULL, NULL, NULL, NULL, NULL, NULL, 'Prepaid for the calls of t.csv', '{"trace": "90cac61e067cb1ca", "end_time": "2026-11-26T01:56:49.615111+00:00"}', '2026-11-26 01:56:49.705197+00', 'operator:cli'),
	('01a21591-d8d2-710a-bb84-b2e9d72a4108', 'before:funds', '01a21591-d9b0-7fa5-bf7a-ab166ce9e40f', 'CREDIT', NULL, '01a21591-d9b0-7010-aaba-e45bce9d0b2b', 1, 'CREDIT', 'USD', 101.000000000, 101.000000000, 101.000000000, NULL, false, 'PAYMENTS', NULL, NULL, NULL, NULL, NULL, NULL, 'Prepaid for the calls of t.csv', '{"trace": "90cac61e067cb1ca", "end_time": "2026-11-26T01:56:49.615111+00:00"}', '2026-11-26 01:56:49.712412+00', 'operator:cli'),
	('01a21591-d92d-7608-b484-8558c02f4cd8', 'before:funds', '01a21591-d9b2-7e4e-b757-18bd4082a3fc', 'CREDIT', NULL, '01a21591-d9b2-73c3-86f3-2897207dcf16', 1, 'CREDIT', 'USD', 101.000000000, 101.000000000, 101.000000000, NULL, false, 'PAYMENTS', NULL, NULL, NULL, NULL, NULL, NULL, 'Prepaid for the calls of t.csv', '{"trace": "90cac61e067cb1ca", "end_time": "2026-11-26T01:56:49.615111+00:00"}', '2026-11-26 01:56:49.71477+00', 'operator:cli'),
	('01a21591-d248-7f3c-b264-e85ced818edb', 'before:1', '01a21591-da1f-70b6-bf49-414fb2742c2e', 'DEBIT', '01a21591-d3bf-7946-a686-4a4c64f29467', '01a21591-d98b-7938-acb6-ff793b544940', 2, 'DEBIT', 'USD', 0.000027500, 100.999972500, 0.000027500, 'MUST_POST', false, 'REVENUE', NULL, NULL, NULL, NULL, NULL, NULL, 'gpt-4o', '{"source": "metering"}', '2026-11-26 01:56:49.822664+00', 'service:metering'),
	('01a21591-d781-72d3-91d4-64e3319ae858', 'before:2', '01a21591-da1f-7737-bad2-df3a58e3099f', 'DEBIT', '01a21591-d797-7585-a0ba-1fe5092330d0', '01a21591-d9a5-7f3a-b68b-61e4a05f5d4d', 2, 'DEBIT', 'USD', 0.000093600, 100.999906400, 0.000093600, 'MUST_POST', false, 'REVENUE', NULL, NULL, NULL, NULL, NULL, NULL, 'claude-3-5-haiku-20241022', '{"source": "metering"}', '2026-11-26 01:56:49.822664+00', 'service:metering'),
	('01a21591-d819-7f2b-9f47-663bd3ad93fd', 'before:4', '01a21591-da1f-7bdc-8e2c-2521cdfdb0b5', 'DEBIT', '01a21591-d846-79e8-a575-b04a50e9ece2', '01a21591-d9a9-7e46-8647-f58c9c346b11', 2, 'DEBIT', 'USD', 0.000981000, 100.999019000, 0.000981000, 'MUST_POST', false, 'REVENUE', NULL, NULL, NULL, NULL, NULL, NULL, 'claude-sonnet-4-20250514', '{"source": "metering"}', '2026-11-26 01:56:49.822664+00', 'service:metering'),
	('01a21591-d248-7f3c-b264-e85ced818edb', 'before:5', '01a21591-da1f-7a15-b752-b80349c226a2', 'DEBIT', '01a21591-d3de-796a-8c93-62b403054b94', '01a21591-d98b-7938-acb6-ff793b544940', 3, 'DEBIT', 'USD', 0.001067500, 100.998905000, 0.001067500, 'MUST_POST', false, 'REVENUE', NULL, NULL, NULL, NULL, NULL, NULL, 'gpt-4o', '{"source": "metering"}', '2026-11-26 01:56:49.822664+00', 'service:metering'),
	('01a21591-d248-7f3c-b264-e85ced818edb', 'before:6', '01a21591-da1f-7bdb-9095-22276c6621cb', 'DEBIT', '01a21591-d3de-796a-8c93-62b403054b94', '01a21591-d98b-7938-acb6-ff793b544940', 4, 'DEBIT', 'USD', 0.000429600, 100.998475400, 0.000429600, 'MUST_POST', false, 'REVENUE', NULL, NULL, NULL, NULL, NULL, NULL, 'claude-3-5-haiku-20241022', '{"source": "metering"}', '2026-11-26 01:56:49.822664+00', 'service:metering'),
	('01a21591-d248-7f3c-b264-e85ced818edb', 'before:7', '01a21591-da1f-7551-8d9b-941a71b41051', 'DEBIT', '01a21591-d3bf-7946-a686-4a4c64f29467', '01a21591-d98b-7938-acb6-ff793b544940', 5, 'DEBIT', 'USD', 0.000513600, 100.997961800, 0.000513600, 'MUST_POST', false, 'REVENUE', NULL, NULL, NULL, NULL, NULL, NULL, 'claude-3-5-haiku-20241022', '{"source": "metering"}', '2026-11-26 01:56:49.822664+00', 'service:metering'),
	('01a21591-d781-72d3-91d4-64e3319ae858', 'before:8', '01a21591-da1f-739c-b71a-4d7b72d71542', 'DEBIT', '01a21591-d797-7585-a0ba-1fe5092330d0', '01a21591-d9a5-7f3a-b68b-61e4a05f5d4d', 3, 'DEBIT', 'USD', 0.000110850, 100.999795550, 0.000110850, 'MUST_POST', false, 'REVENUE', NULL, NULL, NULL, NULL, NULL, NULL, 'gpt-4o-mini', '{"source": "metering"}', '2026-11-26 01:56:49.822664+00', 'service:metering'),
	('01a21591-d248-7f3c-b264-e85ced818edb', 'before:9', '01a21591-da1f-7266-ae9c-6b9d05df0fe1', 'DEBIT', '01a21591-d33a-7e73-b818-ce3e7ad7d2a5', '01a21591-d98b-7938-acb6-ff793b544940', 6, 'DEBIT', 'USD', 0.002107500, 100.995854300, 0.002107500, 'MUST_POST', false, 'REVENUE', NULL, NULL, NULL, NULL, NULL, NULL, 'gpt-4o', '{"source": "metering"}', '2026-11-26 01:56:49.822664+00', 'service:metering'),
	('01a21591-d248-7f3c-b264-e85ced818edb', 'before:10', '01a21591-da1f-700b-9d84-05ac6835f7fe', 'DEBIT', '01a21591-d33a-7e73-b818-ce3e7ad7d2a5', '01a21591-d98b-7938-acb6-ff793b544940', 7, 'DEBIT', 'USD', 0.000142050, 100.995712250, 0.000142050, 'MUST_POST', false, 'REVENUE', NULL, NULL, NULL, NULL, NULL, NULL, 'gpt-4o-mini', '{"source": "metering"}', '2026-11-26 01:56:49.822664+00', 'service:metering'),
	('01a21591-d781-72d3-91d4-64e3319ae858', 'before:11', '01a21591-da1f-74de-ac16-af934a82c4bc', 'DEBIT', '01a21591-d797-7585-a0ba-1fe5092330d0', '01a21591-d9a5-7f3a-b68b-61e4a05f5d4d', 4, 'DEBIT', 'USD', 0.002627500, 100.997168050, 0.002627500, 'MUST_POST', false, 'REVENUE', NULL, NULL, NULL, NULL, NULL, NULL, 'gpt-4o', '{"source": "metering"}', '2026-11-26 01:56:49.822664+00', 'service:metering'),
	('01a21591-d248-7f3c-b264-e85ced818edb', 'before:12', '01a21591-da1f-7aa6-a229-e954187208d2', 'DEBIT', '01a21591-d33a-7e73-b818-ce3e7ad7d2a5', '01a21591-d98b-7938-acb6-ff793b544940', 8, 'DEBIT', 'USD', 0.000933600, 100.994778650, 0.000933600, 'MUST_POST', false, 'REVENUE', NULL, NULL, NULL, NULL, NULL, NULL, 'claude-3-5-haiku-20241022', '{"source": "metering"}', '2026-11-26 01:56:49.822664+00', 'service:metering'),
	('01a21591-d781-72d3-91d4-64e3319ae858', 'before:13', '01a21591-da1f-7de9-8a75-5b13572d2866', 'DEBIT', '01a21591-d797-7585-a0ba-1fe5092330d0', '01a21591-d9a5-7f3a-b68b-61e4a05f5d4d', 5, 'DEBIT', 'USD', 0.000188850, 100.996979200, 0.000188850, 'MUST_POST', false, 'REVENUE', NULL, NULL, NULL, NULL, NULL, NULL, 'gpt-4o-mini', '{"source": "metering"}', '2026-11-26 01:56:49.822664+00', 'service:metering'),
	('01a21591-d248-7f3c-b264-e85ced818edb', 'before:14', '01a21591-da1f-7b40-ba2b-96083f36ec2b', 'DEBIT', '01a21591-d33a-7e73-b818-ce3e7ad7d2a5', '01a21591-d98b-7938-acb6-ff793b544940', 9, 'DEBIT', 'USD', 0.000427100, 100.994351550, 0.000427100, 'MUST_POST', false, 'REVENUE', NULL, NULL, NULL, NULL, NULL, NULL, 'gemini-2.5-flash', '{"source": "metering"}', '2026-11-26 01:56:49.822664+00', 'service:metering'),
	('01a21591-d248-7f3c-b264-e85ced818edb', 'before:15', '01a21591-da1f-7295-95e6-f9575881320a', 'DEBIT', '01a21591-d33a-7e73-b818-ce3e7ad7d2a5', '01a21591-d98b-7938-acb6-ff793b544940', 10, 'DEBIT', 'USD', 0.000220050, 100.994131500, 0.000220050, 'MUST_POST', false, 'REVENUE', NULL, NULL, NULL, NULL, NULL, NULL, 'gpt-4o-mini', '{"source": "metering"}', '2026-11-26 01:56:49.822664+00', 'service:metering'),
	('01a21591-d248-7f3c-b264-e85ced818edb', 'before:16', '01a21591-da1f-7654-a472-35085e5efe19', 'DEBIT', '01a21591-d3bf-7946-a686-4a4c64f29467', '01a21591-d98b-7938-acb6-ff793b544940', 11, 'DEBIT', 'USD', 0.000235650, 100.993895850, 0.000235650, 'MUST_POST', false, 'REVENUE', NULL, NULL, NULL, NULL, NULL, NULL, 'gpt-4o-mini', '{"source": "metering"}', '2026-11-26 01:56:49.822664+00', 'service:metering'),
	('01a21591-d248-7f3c-b264-e85ced818edb', 'before:17', '01a21591-da1f-70f8-be9f-551a8d4af036', 'DEBIT', '01a21591-d33a-7e73-b818-ce3e7ad7d2a5', '01a21591-d98b-7938-acb6-ff793b544940', 12, 'DEBIT', 'USD', 0.000524600, 100.993371250, 0.000524600, 'MUST_POST', false, 'REVENUE', NULL, NULL, NULL, NULL, NULL, NULL, 'gemini-2.5-flash', '{"source": "metering"}', '2026-11-26 01:56:49.822664+00', 'service:metering'),
	('01a21591-d248-7f3c-b264-e85ced818edb', 'before:18', '01a21591-da1f-73bb-98cf-75e2493ccd57', 'DEBIT', '01a21591-d33a-7e73-b818-ce3e7ad7d2a5', '01a21591-d98b-7938-acb6-ff793b544940', 13, 'DEBIT', 'USD', 0.005391000, 100.987980250, 0.005391000, 'MUST_POST', false, 'REVENUE', NULL, NULL, NULL, NULL, NULL, NULL, 'claude-sonnet-4-20250514', '{"source": "metering"}', '2026-11-26 01:56:49.822664+00', 'service:metering'),
	('01a21591-d819-7f2b-9f47-663bd3ad93fd', 'before:19', '01a21591-da1f-741c-b280-0f81a53666ca', 'DEBIT', '01a21591-d846-79e8-a575-b04a50e9ece2', '01a21591-d9a9-7e46-8647-f58c9c346b11', 3, 'DEBIT', 'USD', 0.000589600, 100.998429400, 0.000589600, 'MUST_POST', false, 'REVENUE', NULL, NULL, NULL, NULL, NULL, NULL, 'gemini-2.5-flash', '{"source": "metering"}', '2026-11-26 01:56:49.822664+00', 'service:metering'),
	('01a21591-d248-7f3c-b264-e85ced818edb', 'before:20', '01a21591-da1f-7273-825d-b578734950bd', 'DEBIT', '01a21591-d33a-7e73-b818-ce3e7ad7d2a5', '01a21591-d98b-7938-acb6-ff793b544940', 14, 'DEBIT', 'USD', 0.000298050, 100.987682200, 0.000298050, 'MUST_POST', false, 'REVENUE', NULL, NULL, NULL, NULL, NULL, NULL, 'gpt-4o-mini', '{"source": "metering"}', '2026-11-26 01:56:49.822664+00', 'service:metering'),
	('01a21591-d8d2-710a-bb84-b2e9d72a4108', 'before:21', '01a21591-da1f-70f7-84e5-28dcef99a1e9', 'DEBIT', '01a21591-d8e8-7baf-8ead-29760acfc68c', '01a21591-d9b0-7010-aaba-e45bce9d0b2b', 2, 'DEBIT', 'USD', 0.005227500, 100.994772500, 0.005227500, 'MUST_POST', false, 'REVENUE', NULL, NULL, NULL, NULL, NULL, NULL, 'gpt-4o', '{"source": "metering"}', '2026-11-26 01:56:49.822664+00', 'service:metering'),
	('01a21591-d248-7f3c-b264-e85ced818edb', 'before:22', '01a21591-da1f-7d2b-af36-d08428286233', 'DEBIT', '01a21591-d3de-796a-8c93-62b403054b94', '01a21591-d98b-7938-acb6-ff793b544940', 15, 'DEBIT', 'USD', 0.004390000, 100.983292200, 0.004390000, 'MUST_POST', false, 'REVENUE', NULL, NULL, NULL, NULL, NULL, NULL, 'gpt-4.1', '{"source": "metering"}', '2026-11-26 01:56:49.822664+00', 'service:metering'),
	('01a21591-d781-72d3-91d4-64e3319ae858', 'before:23', '01a21591-da1f-7e58-bb34-2de719875ad0', 'DEBIT', '01a21591-d79b-779d-8de9-8cf22b7a54f0', '01a21591-d9a5-7f3a-b68b-61e4a05f5d4d', 6, 'DEBIT', 'USD', 0.000344850, 100.996634350, 0.000344850, 'MUST_POST', false, 'REVENUE', NULL, NULL, NULL, NULL, NULL, NULL, 'gpt-4o-mini', '{"source": "metering"}', '2026-11-26 01:56:49.822664+00', 'service:metering'),
	('01a21591-d248-7f3c-b264-e85ced818edb', 'before:26', '01a21591-da1f-7e2f-bede-e2799acceccb', 'DEBIT', '01a21591-d3bf-7946-a686-4a4c64f29467', '01a21591-d98b-7938-acb6-ff793b544940', 16, 'DEBIT', 'USD', 0.006527500, 100.976764700, 0.006527500, 'MUST_POST', false, 'REVENUE', NULL, NULL, NULL, NULL, NULL, NULL, 'gpt-4o', '{"source": "metering"}', '2026-11-26 01:56:49.822664+00', 'service:metering'),
	('01a21591-d248-7f3c-b264-e85ced818edb', 'before:27', '01a21591-da1f-79ea-a2c2-828fbe7aee77', 'DEBIT', '01a21591-d33a-7e73-b818-ce3e7ad7d2a5', '01a21591-d98b-7938-acb6-ff793b544940', 17, 'DEBIT', 'USD', 0.008226000, 100.968538700, 0.008226000, 'MUST_POST', false, 'REVENUE', NULL, NULL, NULL, NULL, NULL, NULL, 'claude-sonnet-4-20250514', '{"source": "metering"}', '2026-11-26 01:56:49.822664+00', 'service:metering'),
	('01a21591-d781-72d3-91d4-64e3319ae858', 'before:28', '01a21591-da1f-7733-b476-be0278425644', 'DEBIT', '01a21591-d79b-779d-8de9-8cf22b7a54f0', '01a21591-d9a5-7f3a-b68b-61e4a05f5d4d', 7, 'DEBIT', 'USD', 0.007047500, 100.989586850, 0.007047500, 'MUST_POST', false, 'REVENUE', NULL, NULL, NULL, NULL, NULL, NULL, 'gpt-4o', '{"source": "metering"}', '2026-11-26 01:56:49.822664+00', 'service:metering'),
	('01a21591-d819-7f2b-9f47-663bd3ad93fd', 'before:29', '01a21591-da1f-7b68-b0b9-bdf37dfdfc60', 'DEBIT', '01a21591-d846-79e8-a575-b04a50e9ece2', '01a21591-d9a9-7e46-8647-f58c9c346b11', 4, 'DEBIT', 'USD', 0.000914600, 100.997514800, 0.000914600, 'MUST_POST', false, 'REVENUE', NULL, NULL, NULL, NULL, NULL, NULL, 'gemini-2.5-flash', '{"source": "metering"}', '2026-11-26 01:56:49.822664+00', 'service:metering'),
	('01a21591-d248-7f3c-b264-e85ced818edb', 'before:31', '01a21591-da1f-7396-b447-58ea8fee9976', 'DEBIT', '01a21591-d3bf-7946-a686-4a4c64f29467', '01a21591-d98b-7938-acb6-ff793b544940', 18, 'DEBIT', 'USD', 0.000979600, 100.967559100, 0.000979600, 'MUST_POST', false, 'REVENUE', NULL, NULL, NULL, NULL, NULL, NULL, 'gemini-2.5-flash', '{"source": "metering"}', '2026-11-26 01:56:49.822664+00', 'service:metering'),
	('01a21591-d248-7f3c-b264-e85ced818edb', 'before:32', '01a21591-da1f-7b4c-9eaa-25a934e8adbb', 'DEBIT', '01a21591-d3bf-7946-a686-4a4c64f29467', '01a21591-d98b-7938-acb6-ff793b544940', 19, 'DEBIT', 'USD', 0.001012100, 100.966547000, 0.001012100, 'MUST_POST', false, 'REVENUE', NULL, NULL, NULL, NULL, NULL, NULL, 'gemini-2.5-flash', '{"source": "metering"}', '2026-11-26 01:56:49.822664+00', 'service:metering'),
	('01a21591-d248-7f3c-b264-e85ced818edb', 'before:33', '01a21591-da1f-708f-ad4a-8fa2da7176d2', 'DEBIT', '01a21591-d33a-7e73-b818-ce3e7ad7d2a5', '01a21591-d98b-7938-acb6-ff793b544940', 20, 'DEBIT', 'USD', 0.000500850, 100.966046150, 0.000500850, 'MUST_POST', false, 'REVENUE', NULL, NULL, NULL, NULL, NULL, NULL, 'gpt-4o-mini', '{"source": "metering"}', '2026-11-26 01:56:49.822664+00', 'service:metering'),
	('01a21591-d8d2-710a-bb84-b2e9d72a4108', 'before:34', '01a21591-da1f-7875-ad5d-dcb339cf644f', 'DEBIT', '01a21591-d8e8-7baf-8ead-29760acfc68c', '01a21591-d9b0-7010-aaba-e45bce9d0b2b', 3, 'DEBIT', 'USD', 0.000516450, 100.994256050, 0.000516450, 'MUST_POST', false, 'REVENUE', NULL, NULL, NULL, NULL, NULL, NULL, 'gpt-4o-mini', '{"source": "metering"}', '2026-11-26 01:56:49.822664+00', 'service:metering'),
	('01a21591-d248-7f3c-b264-e85ced818edb', 'before:35', '01a21591-da1f-75ba-b2bc-a798e573dc11', 'DEBIT', '01a21591-d33a-7e73-b818-ce3e7ad7d2a5', '01a21591-d98b-7938-acb6-ff793b544940', 21, 'DEBIT', 'USD', 0.008867500, 100.957178650, 0.008867500, 'MUST_POST', false, 'REVENUE', NULL, NULL, NULL, NULL, NULL, NULL, 'gpt-4o', '{"source": "metering"}', '2026-11-26 01:56:49.822664+00', 'service:metering'),
	('01a21591-d781-72d3-91d4-64e3319ae858', 'before:36', '01a21591-da1f-7b85-858d-80b93c81483e', 'DEBIT', '01a21591-d79b-779d-8de9-8cf22b7a54f0', '01a21591-d9a5-7f3a-b68b-61e4a05f5d4d', 8, 'DEBIT', 'USD', 0.009127500, 100.980459350, 0.009127500, 'MUST_POST', false, 'REVENUE', NULL, NULL, NULL, NULL, NULL, NULL, 'gpt-4o', '{"source": "metering"}', '2026-11-26 01:56:49.822664+00', 'service:metering'),
	('01a21591-d781-72d3-91d4-64e3319ae858', 'before:37', '01a21591-da1f-7834-af23-fe7a36323334', 'DEBIT', '01a21591-d79b-779d-8de9-8cf22b7a54f0', '01a21591-d9a5-7f3a-b68b-61e4a05f5d4d', 9, 'DEBIT', 'USD', 0.011376000, 100.969083350, 0.011376000, 'MUST_POST', false, 'REVENUE', NULL, NULL, NULL, NULL, NULL, NULL, 'claude-sonnet-4-20250514', '{"source": "metering"}', '2026-11-26 01:56:49.822664+00', 'service:metering'),
	('01a21591-d248-7f3c-b264-e85ced818edb', 'before:38', '01a21591-da1f-7ab0-84ad-575c2758967c', 'DEBIT', '01a21591-d33a-7e73-b818-ce3e7ad7d2a5', '01a21591-d98b-7938-acb6-ff793b544940', 22, 'DEBIT', 'USD', 0.001207100, 100.955971550, 0.001207100, 'MUST_POST', false, 'REVENUE', NULL, NULL, NULL, NULL, NULL, NULL, 'gemini-2.5-flash', '{"source": "metering"}', '2026-11-26 01:56:49.822664+00', 'service:metering'),
	('01a21591-d92d-7608-b484-8558c02f4cd8', 'before:39', '01a21591-da1f-71c6-b323-30e37b6707fa', 'DEBIT', '01a21591-d939-72c4-b21e-4c7e3f1b8304', '01a21591-d9b2-73c3-86f3-2897207dcf16', 2, 'DEBIT', 'USD', 0.001239600, 100.998760400, 0.001239600, 'MUST_POST', false, 'REVENUE', NULL, NULL, NULL, NULL, NULL, NULL, 'gemini-2.5-flash', '{"source": "metering"}', '2026-11-26 01:56:49.822664+00', 'service:metering'),
	('01a21591-d781-72d3-91d4-64e3319ae858', 'before:25', '01a21591-da1f-79dc-9318-bad742c10954', 'DEBIT', '01a21591-d797-7585-a0ba-1fe5092330d0', '01a21591-d9a5-7f3a-b68b-61e4a05f5d4d', 10, 'DEBIT', 'USD', 0.000376050, 100.968707300, 0.000376050, 'MUST_POST', false, 'REVENUE', NULL, NULL, NULL, NULL, NULL, NULL, 'gpt-4o-mini', '{"source": "metering"}', '2026-11-26 01:56:49.822664+00', 'service:metering'),
	('01a21591-d781-72d3-91d4-64e3319ae858', 'before:40', '01a21591-da1f-7e2c-b121-15717076429f', 'DEBIT', '01a21591-d797-7585-a0ba-1fe5092330d0', '01a21591-d9a5-7f3a-b68b-61e4a05f5d4d', 11, 'DEBIT', 'USD', 0.000610050, 100.968097250, 0.000610050, 'MUST_POST', false, 'REVENUE', NULL, NULL, NULL, NULL, NULL, NULL, 'gpt-4o-mini', '{"source": "metering"}', '2026-11-26 01:56:49.822664+00', 'service:metering'),
	('01a21591-d248-7f3c-b264-e85ced818edb', 'before:24', '01a21591-da1f-7198-b309-18edb3d43f13', 'DEBIT', '01a21591-d33a-7e73-b818-ce3e7ad7d2a5', '01a21591-d98b-7938-acb6-ff793b544940', 23, 'DEBIT', 'USD', 0.000360450, 100.955611100, 0.000360450, 'MUST_POST', false, 'REVENUE', NULL, NULL, NULL, NULL, NULL, NULL, 'gpt-4o-mini', '{"source": "metering"}', '2026-11-26 01:56:49.822664+00', 'service:metering'),
	('01a21591-d819-7f2b-9f47-663bd3ad93fd', 'before:3', '01a21591-da4b-7a88-96bc-5898b6b434b0', 'CAPTURE', '01a21591-d846-79e8-a575-b04a50e9ece2', '01a21591-d9a9-7e46-8647-f58c9c346b11', 5, 'DEBIT', 'USD', 0.000547500, 100.996967300, 0.000547500, NULL, false, 'REVENUE', NULL, NULL, NULL, NULL, NULL, 0.000547500, 'gpt-4o', '{"source": "metering"}', '2026-11-26 01:56:49.867287+00', 'service:metering'),
	('01a21591-d248-7f3c-b264-e85ced818edb', 'before:30', '01a21591-da57-76f8-87fe-8851c7fd4cda', 'CAPTURE', '01a21591-d3bf-7946-a686-4a4c64f29467', '01a21591-d98b-7938-acb6-ff793b544940', 24, 'DEBIT', 'USD', 0.007567500, 100.948043600, 0.007567500, NULL, false, 'REVENUE', NULL, NULL, NULL, NULL, NULL, 0.007567500, 'gpt-4o', '{"source": "metering"}', '2026-11-26 01:56:49.879051+00', 'service:metering'),
	('01a21591-dc2c-769a-824b-3114acd37b48', 'in', '01a21591-dc6a-754a-af55-c7a41b309cbf', 'CREDIT', NULL, '01a21591-dc54-7e4e-ae6d-0e6722dcc010', 1, 'CREDIT', 'USD', 100.000000000, 100.000000000, 100.000000000, NULL, false, 'PAYMENTS', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, '2026-11-26 01:56:50.407485+00', 'operator:cli'),
	('01a21591-dc36-70e6-b96b-67e2f6bfa593', 'in', '01a21591-dc6e-79f9-9dca-bf1c8c8095b9', 'CREDIT', NULL, '01a21591-dc6e-7b2c-bec2-72a17a2b25ec', 1, 'CREDIT', 'EUR', 100.000000000, 100.000000000, 100.000000000, NULL, false, 'PAYMENTS', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, '2026-11-26 01:56:50.414369+00', 'operator:cli'),
	('01a21591-dc3d-7a32-960b-c28a8913c46a', 'in', '01a21591-dc77-7b68-8f35-b21f9b504891', 'CREDIT', NULL, '01a21591-dc77-711e-b8a9-b3b0572ae271', 1, 'CREDIT', 'USD', 0.001000000, 0.001000000, 0.001000000, NULL, false, 'PAYMENTS', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, '2026-11-26 01:56:50.423678+00', 'operator:cli'),
	('01a21591-dc2c-769a-824b-3114acd37b48', 'manual', '01a21591-dc7d-71ff-8da3-d88d48f9d042', 'DEBIT', NULL, '01a21591-dc54-7e4e-ae6d-0e6722dcc010', 2, 'DEBIT', 'USD', 7.250000000, 92.750000000, 7.250000000, 'GUARDED', false, 'REVENUE', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, '2026-11-26 01:56:50.429392+00', 'operator:cli'),
	('01a21591-dc2c-769a-824b-3114acd37b48', 'back', '01a21591-dc94-7db5-9f05-cc27883dff15', 'REVERSAL', NULL, '01a21591-dc54-7e4e-ae6d-0e6722dcc010', 3, 'CREDIT', 'USD', 2.000000000, 94.750000000, 2.000000000, NULL, false, 'REVENUE', NULL, NULL, NULL, NULL, '01a21591-dc7d-71ff-8da3-d88d48f9d042', NULL, NULL, NULL, '2026-11-26 01:56:50.45124+00', 'operator:cli'),
	('01a21591-dc2c-769a-824b-3114acd37b48', 'hold-captured', '01a21591-dcc4-7b36-ad1c-e46e56365649', 'CAPTURE', NULL, '01a21591-dc54-7e4e-ae6d-0e6722dcc010', 4, 'DEBIT', 'USD', 1.250000000, 93.500000000, 1.250000000, NULL, false, 'REVENUE', NULL, NULL, NULL, NULL, NULL, 1.500000000, NULL, NULL, '2026-11-26 01:56:50.500004+00', 'operator:cli'),
	('01a21591-dc2c-769a-824b-3114acd37b48', 'call-settled', '01a21591-dd17-7ef3-a6fe-9dd9893be206', 'CAPTURE', NULL, '01a21591-dc54-7e4e-ae6d-0e6722dcc010', 5, 'DEBIT', 'USD', 0.005850000, 93.494150000, 0.005850000, NULL, false, 'REVENUE', NULL, NULL, NULL, NULL, NULL, 0.010400000, 'swift-1', '{"source": "metering"}', '2026-11-26 01:56:50.582546+00', 'service:metering'),
	('01a21591-dc2c-769a-824b-3114acd37b48', 'recorded', '01a21591-dd34-78ec-b03a-7426d516cf7e', 'DEBIT', NULL, '01a21591-dc54-7e4e-ae6d-0e6722dcc010', 6, 'DEBIT', 'USD', 0.004000000, 93.490150000, 0.004000000, 'MUST_POST', false, 'REVENUE', NULL, NULL, NULL, NULL, NULL, NULL, 'swift-1', '{"source": "metering"}', '2026-11-26 01:56:50.612885+00', 'service:metering'),
	('01a21591-dc2c-769a-824b-3114acd37b48', 'last-month', '01a21591-dd3f-7bad-91eb-2624d3d567f3', 'DEBIT', NULL, '01a21591-dc54-7e4e-ae6d-0e6722dcc010', 7, 'DEBIT', 'USD', 0.004000000, 93.486150000, 0.004000000, 'MUST_POST', false, 'REVENUE', NULL, NULL, NULL, NULL, NULL, NULL, 'swift-1', '{"source": "metering"}', '2026-11-26 01:56:50.623016+00', 'service:metering'),
	('01a21591-dc2c-769a-824b-3114acd37b48', 'long-ago', '01a21591-dd62-78d7-a8ef-874727f50322', 'DEBIT', NULL, '01a21591-dc54-7e4e-ae6d-0e6722dcc010', 8, 'DEBIT', 'USD', 0.004000000, 93.482150000, 0.004000000, 'MUST_POST', false, 'REVENUE', NULL, NULL, NULL, NULL, NULL, NULL, 'swift-1', '{"source": "metering"}', '2026-11-26 01:56:50.658868+00', 'service:metering');
INSERT INTO identity.alembic_version VALUES
	('0010');
INSERT INTO identity.api_keys VALUES
	('01a21591-d248-7f3c-b264-e85ced818edb', '01a21591-d40f-7e0b-90ec-8cd6702e09f8', '01a21591-d33a-7e73-b818-ce3e7ad7d2a5', '01a21591-d118-75d2-86af-2f09e989170a', NULL, 'replay', 'test', '\x771b67010a78ae77ed75df3342ea9324ee9dbd8d56e287a3fd8a882d57e5b7a5', 1, 'th_test_eiDx', 'uKAq', '{}', '{claude-3-5-haiku-20241022,claude-sonnet-4-20250514,gemini-2.5-flash,gpt-4.1,gpt-4o,gpt-4o-mini}', '{}', '', '2026-11-26 01:56:48.271416+00', '2026-11-26 01:56:48.271416+00', NULL, NULL, NULL, NULL, '{}', NULL, NULL, NULL, 1),
	('01a21591-d248-7f3c-b264-e85ced818edb', '01a21591-d487-7bcd-868b-e7fef7496f28', '01a21591-d33a-7e73-b818-ce3e7ad7d2a5', '01a21591-d213-7560-a1e5-06a31945dc79', NULL, 'replay', 'test', '\x4e949fbcb01afdf6b9429cdd35f4fc3097dbd47b9283726ead8ebb2fd27f0e88', 1, 'th_test_2m8l', 'YeAV', '{}', '{claude-3-5-haiku-20241022,claude-sonnet-4-20250514,gemini-2.5-flash,gpt-4.1,gpt-4o,gpt-4o-mini}', '{}', '', '2026-11-26 01:56:48.391782+00', '2026-11-26 01:56:48.391782+00', NULL, NULL, NULL, NULL, '{}', NULL, NULL, NULL, 1),
	('01a21591-d248-7f3c-b264-e85ced818edb', '01a21591-d4c3-7601-80e7-67a87d2f6726', '01a21591-d33a-7e73-b818-ce3e7ad7d2a5', '01a21591-d222-7eb2-9ee1-3477e3460383', NULL, 'replay', 'test', '\xdfc8589f0a25bae5deb35ee4a8f167bc634a4eb061bd5873d1ad392060a82de7', 1, 'th_test_oZ41', '4cs5', '{}', '{claude-3-5-haiku-20241022,claude-sonnet-4-20250514,gemini-2.5-flash,gpt-4.1,gpt-4o,gpt-4o-mini}', '{}', '', '2026-11-26 01:56:48.451362+00', '2026-11-26 01:56:48.451362+00', NULL, NULL, NULL, NULL, '{}', NULL, NULL, NULL, 1),
	('01a21591-d248-7f3c-b264-e85ced818edb', '01a21591-d4f6-7753-85b7-93dfeac2731a', '01a21591-d33a-7e73-b818-ce3e7ad7d2a5', '01a21591-d22f-770b-b594-fdd45ba480e3', NULL, 'replay', 'test', '\x21d9c13b94ca90fd0f1ba0e6baa10b03d950b403120fb2098cbc0283c60c2a5e', 1, 'th_test_dSbh', 'FJXb', '{}', '{claude-3-5-haiku-20241022,claude-sonnet-4-20250514,gemini-2.5-flash,gpt-4.1,gpt-4o,gpt-4o-mini}', '{}', '', '2026-11-26 01:56:48.502098+00', '2026-11-26 01:56:48.502098+00', NULL, NULL, NULL, NULL, '{}', NULL, NULL, NULL, 1),
	('01a21591-d248-7f3c-b264-e85ced818edb', '01a21591-d52d-7d9c-ab34-2496c2cd394d', '01a21591-d3bf-7946-a686-4a4c64f29467', '01a21591-d118-75d2-86af-2f09e989170a', NULL, 'replay', 'test', '\x813fe1c87de576ea4d1c6d91617f243ad15642fad7b740dcd43aacff4cac377c', 1, 'th_test_LknI', 'fWi5', '{}', '{claude-3-5-haiku-20241022,claude-sonnet-4-20250514,gemini-2.5-flash,gpt-4.1,gpt-4o,gpt-4o-mini}', '{}', '', '2026-11-26 01:56:48.557228+00', '2026-11-26 01:56:48.557228+00', NULL, NULL, NULL, NULL, '{}', NULL, NULL, NULL, 1),
	('01a21591-d248-7f3c-b264-e85ced818edb', '01a21591-d5a4-746a-a196-5d57936891a0', '01a21591-d3bf-7946-a686-4a4c64f29467', '01a21591-d222-7eb2-9ee1-3477e3460383', NULL, 'replay', 'test', '\xc883f09a5f501e8633ad920225c79d89abbda879b976bdc24b46578f278741d0', 1, 'th_test_qNMv', 'W6v7', '{}', '{claude-3-5-haiku-20241022,claude-sonnet-4-20250514,gemini-2.5-flash,gpt-4.1,gpt-4o,gpt-4o-mini}', '{}', '', '2026-11-26 01:56:48.676188+00', '2026-11-26 01:56:48.676188+00', NULL, NULL, NULL, NULL, '{}', NULL, NULL, NULL, 1),
	('01a21591-d248-7f3c-b264-e85ced818edb', '01a21591-d5db-7b4d-9165-2a282ec590df', '01a21591-d3bf-7946-a686-4a4c64f29467', '01a21591-d22f-770b-b594-fdd45ba480e3', NULL, 'replay', 'test', '\xdc1fe22e3a4a321efd8f7b8439aadcdf6a97b76ee3de33524b9f6eb937d84ffe', 1, 'th_test_1rVG', 'IIdh', '{}', '{claude-3-5-haiku-20241022,claude-sonnet-4-20250514,gemini-2.5-flash,gpt-4.1,gpt-4o,gpt-4o-mini}', '{}', '', '2026-11-26 01:56:48.731826+00', '2026-11-26 01:56:48.731826+00', NULL, NULL, NULL, NULL, '{}', NULL, NULL, NULL, 1),
	('01a21591-d248-7f3c-b264-e85ced818edb', '01a21591-d60d-7854-8345-bccb37f8728a', '01a21591-d3de-796a-8c93-62b403054b94', '01a21591-d118-75d2-86af-2f09e989170a', NULL, 'replay', 'test', '\xcb91242a889c9542e30a24fd3b1def4540575b9e352b686cc02743a6844100e4', 1, 'th_test_GTRn', 'fv2O', '{}', '{claude-3-5-haiku-20241022,claude-sonnet-4-20250514,gemini-2.5-flash,gpt-4.1,gpt-4o,gpt-4o-mini}', '{}', '', '2026-11-26 01:56:48.781393+00', '2026-11-26 01:56:48.781393+00', NULL, NULL, NULL, NULL, '{}', NULL, NULL, NULL, 1),
	('01a21591-d248-7f3c-b264-e85ced818edb', '01a21591-d63e-7089-a040-e3c081b3c1b1', '01a21591-d3de-796a-8c93-62b403054b94', '01a21591-d213-7560-a1e5-06a31945dc79', NULL, 'replay', 'test', '\x7fadb694e5bc9cbe266a8da3e3d9f2b9a7482935de80886f06fd7d51d406f1b0', 1, 'th_test_EMcj', 'XHOZ', '{}', '{claude-3-5-haiku-20241022,claude-sonnet-4-20250514,gemini-2.5-flash,gpt-4.1,gpt-4o,gpt-4o-mini}', '{}', '', '2026-11-26 01:56:48.830211+00', '2026-11-26 01:56:48.830211+00', NULL, NULL, NULL, NULL, '{}', NULL, NULL, NULL, 1),
	('01a21591-d248-7f3c-b264-e85ced818edb', '01a21591-d670-75d7-bab8-e586997112b0', '01a21591-d3de-796a-8c93-62b403054b94', '01a21591-d222-7eb2-9ee1-3477e3460383', NULL, 'replay', 'test', '\x37d8d9323c680ece6378031bb414bbc4f0bac49b660bf3b63935570976dd5742', 1, 'th_test_mMQa', 'ndod', '{}', '{claude-3-5-haiku-20241022,claude-sonnet-4-20250514,gemini-2.5-flash,gpt-4.1,gpt-4o,gpt-4o-mini}', '{}', '', '2026-11-26 01:56:48.880974+00', '2026-11-26 01:56:48.880974+00', NULL, NULL, NULL, NULL, '{}', NULL, NULL, NULL, 1),
	('01a21591-d248-7f3c-b264-e85ced818edb', '01a21591-d6c3-75f3-94ba-e246e6c22917', '01a21591-d3de-796a-8c93-62b403054b94', '01a21591-d22f-770b-b594-fdd45ba480e3', NULL, 'replay', 'test', '\x13faad7f88fb05fe890fa5fdde4f1000a31a20e5d03f2f0caa4ec2042ae711b6', 1, 'th_test_daqb', 'tGLW', '{}', '{claude-3-5-haiku-20241022,claude-sonnet-4-20250514,gemini-2.5-flash,gpt-4.1,gpt-4o,gpt-4o-mini}', '{}', '', '2026-11-26 01:56:48.963841+00', '2026-11-26 01:56:48.963841+00', NULL, NULL, NULL, NULL, '{}', NULL, NULL, NULL, 1),
	('01a21591-d781-72d3-91d4-64e3319ae858', '01a21591-d79f-7492-b56f-0cc2a5123255', '01a21591-d797-7585-a0ba-1fe5092330d0', '01a21591-d6e7-7984-bcf7-f477afc4fdc2', NULL, 'replay', 'test', '\x4c5df5b727165ffa518f6739b9c72a18bf6223e808743af5648701006daaddcb', 1, 'th_test_Vjjv', 'WsD0', '{}', '{claude-3-5-haiku-20241022,claude-sonnet-4-20250514,gemini-2.5-flash,gpt-4.1,gpt-4o,gpt-4o-mini}', '{}', '', '2026-11-26 01:56:49.183867+00', '2026-11-26 01:56:49.183867+00', NULL, NULL, NULL, NULL, '{}', NULL, NULL, NULL, 1),
	('01a21591-d781-72d3-91d4-64e3319ae858', '01a21591-d7aa-72ee-a6e7-55ab62cf9a0f', '01a21591-d797-7585-a0ba-1fe5092330d0', '01a21591-d70a-7da9-bdee-d689cb13d367', NULL, 'replay', 'test', '\x2ae53b96696a9740bf102956bb0e2ff5443dfcf166a41d863b0bd74e6dea56d1', 1, 'th_test_CP37', 'k1sA', '{}', '{claude-3-5-haiku-20241022,claude-sonnet-4-20250514,gemini-2.5-flash,gpt-4.1,gpt-4o,gpt-4o-mini}', '{}', '', '2026-11-26 01:56:49.194091+00', '2026-11-26 01:56:49.194091+00', NULL, NULL, NULL, NULL, '{}', NULL, NULL, NULL, 1),
	('01a21591-d781-72d3-91d4-64e3319ae858', '01a21591-d7b1-7911-bafc-6589d0146838', '01a21591-d797-7585-a0ba-1fe5092330d0', '01a21591-d772-79a7-b44c-8a7662429fc8', NULL, 'replay', 'test', '\x75c4dc52a83acb277a844c432a153a61d46a63ea756ce2e940011e0587531045', 1, 'th_test_dto9', 'c0fz', '{}', '{claude-3-5-haiku-20241022,claude-sonnet-4-20250514,gemini-2.5-flash,gpt-4.1,gpt-4o,gpt-4o-mini}', '{}', '', '2026-11-26 01:56:49.201328+00', '2026-11-26 01:56:49.201328+00', NULL, NULL, NULL, NULL, '{}', NULL, NULL, NULL, 1),
	('01a21591-d781-72d3-91d4-64e3319ae858', '01a21591-d7bd-7e4b-b261-175db0f1a2a0', '01a21591-d79b-779d-8de9-8cf22b7a54f0', '01a21591-d6e7-7984-bcf7-f477afc4fdc2', NULL, 'replay', 'test', '\xf7fe5429426a43b5b94ad2c1a1015a396d2d36a3edbc39353b5c330d2df7e4f2', 1, 'th_test_qgGc', 'pPj8', '{}', '{claude-3-5-haiku-20241022,claude-sonnet-4-20250514,gemini-2.5-flash,gpt-4.1,gpt-4o,gpt-4o-mini}', '{}', '', '2026-11-26 01:56:49.21365+00', '2026-11-26 01:56:49.21365+00', NULL, NULL, NULL, NULL, '{}', NULL, NULL, NULL, 1),
	('01a21591-d781-72d3-91d4-64e3319ae858', '01a21591-d7c4-7a7f-8df5-60277a4dca44', '01a21591-d79b-779d-8de9-8cf22b7a54f0', '01a21591-d70a-7da9-bdee-d689cb13d367', NULL, 'replay', 'test', '\x08769be51f558565a717f74cdc146207783ca9b3b6772276de485c6a6055dcc6', 1, 'th_test_ZA4I', 'Pk0F', '{}', '{claude-3-5-haiku-20241022,claude-sonnet-4-20250514,gemini-2.5-flash,gpt-4.1,gpt-4o,gpt-4o-mini}', '{}', '', '2026-11-26 01:56:49.220357+00', '2026-11-26 01:56:49.220357+00', NULL, NULL, NULL, NULL, '{}', NULL, NULL, NULL, 1),
	('01a21591-d248-7f3c-b264-e85ced818edb', '01a21591-d563-7f01-aa8b-4c390d9a6b42', '01a21591-d3bf-7946-a686-4a4c64f29467', '01a21591-d213-7560-a1e5-06a31945dc79', NULL, 'replay', 'test', '\x9d3d96e7ba517cf8c6160dda30350de12cb73dcd0685c029aae99c38ea657339', 1, 'th_test_FnTS', 'Azb4', '{}', '{claude-3-5-haiku-20241022,claude-sonnet-4-20250514,gemini-2.5-flash,gpt-4.1,gpt-4o,gpt-4o-mini}', '{}', '', '2026-11-26 01:56:48.611747+00', '2026-11-26 01:56:48.611747+00', NULL, NULL, NULL, '2026-11-26 01:56:49.818148+00', '{}', NULL, NULL, NULL, 1),
	('01a21591-d781-72d3-91d4-64e3319ae858', '01a21591-d7d0-760c-8dbe-0cae4b624b3d', '01a21591-d79b-779d-8de9-8cf22b7a54f0', '01a21591-d772-79a7-b44c-8a7662429fc8', NULL, 'replay', 'test', '\x4a7afd7a1a59d11dc8dadbd32e4cda802156b1f2989a59e4de2b12784d5ac6a6', 1, 'th_test_PVtV', 'NbQw', '{}', '{claude-3-5-haiku-20241022,claude-sonnet-4-20250514,gemini-2.5-flash,gpt-4.1,gpt-4o,gpt-4o-mini}', '{}', '', '2026-11-26 01:56:49.232282+00', '2026-11-26 01:56:49.232282+00', NULL, NULL, NULL, NULL, '{}', NULL, NULL, NULL, 1),
	('01a21591-d819-7f2b-9f47-663bd3ad93fd', '01a21591-d856-71dc-8060-a7bc2e280b7c', '01a21591-d846-79e8-a575-b04a50e9ece2', '01a21591-d7f6-7e61-9dc3-1d2345b1f59a', NULL, 'replay', 'test', '\xe5fb14cce1aa85b7c6d81c3238d76ede80e1ef50be900fe213090c590f5bcb44', 1, 'th_test_vYlV', 'yV7d', '{}', '{claude-3-5-haiku-20241022,claude-sonnet-4-20250514,gemini-2.5-flash,gpt-4.1,gpt-4o,gpt-4o-mini}', '{}', '', '2026-11-26 01:56:49.366919+00', '2026-11-26 01:56:49.366919+00', NULL, NULL, NULL, NULL, '{}', NULL, NULL, NULL, 1),
	('01a21591-d819-7f2b-9f47-663bd3ad93fd', '01a21591-d864-74d9-b712-3d470e9b7ed3', '01a21591-d846-79e8-a575-b04a50e9ece2', '01a21591-d801-7bea-955a-e6a795908c11', NULL, 'replay', 'test', '\x0ec77b6aeaa428ff4d586fab661f3d5ff1679e148284dbc38c90b4295f36e93a', 1, 'th_test_2fqu', 'v4LM', '{}', '{claude-3-5-haiku-20241022,claude-sonnet-4-20250514,gemini-2.5-flash,gpt-4.1,gpt-4o,gpt-4o-mini}', '{}', '', '2026-11-26 01:56:49.38035+00', '2026-11-26 01:56:49.38035+00', NULL, NULL, NULL, NULL, '{}', NULL, NULL, NULL, 1),
	('01a21591-d819-7f2b-9f47-663bd3ad93fd', '01a21591-d890-7ded-8dec-38aa09a1c595', '01a21591-d84e-73e7-a0ff-1c06fb119e8a', '01a21591-d7f6-7e61-9dc3-1d2345b1f59a', NULL, 'replay', 'test', '\x92f09b694cde062a7ffbbfc38dff19ea2feb5edacf08d01741f8655bf5e26fc8', 1, 'th_test_DnSo', 'KiGx', '{}', '{claude-3-5-haiku-20241022,claude-sonnet-4-20250514,gemini-2.5-flash,gpt-4.1,gpt-4o,gpt-4o-mini}', '{}', '', '2026-11-26 01:56:49.424247+00', '2026-11-26 01:56:49.424247+00', NULL, NULL, NULL, NULL, '{}', NULL, NULL, NULL, 1),
	('01a21591-d819-7f2b-9f47-663bd3ad93fd', '01a21591-d89f-79c5-b303-ff3af9ed6efb', '01a21591-d84e-73e7-a0ff-1c06fb119e8a', '01a21591-d801-7bea-955a-e6a795908c11', NULL, 'replay', 'test', '\x78eb0483ab94c83e235ed6941a357d9f89891e1fde7cb9001940d79147b0b08e', 1, 'th_test_wViw', '16VG', '{}', '{claude-3-5-haiku-20241022,claude-sonnet-4-20250514,gemini-2.5-flash,gpt-4.1,gpt-4o,gpt-4o-mini}', '{}', '', '2026-11-26 01:56:49.439304+00', '2026-11-26 01:56:49.439304+00', NULL, NULL, NULL, NULL, '{}', NULL, NULL, NULL, 1),
	('01a21591-d819-7f2b-9f47-663bd3ad93fd', '01a21591-d8ae-7a93-980e-cc95332cf3ca', '01a21591-d84e-73e7-a0ff-1c06fb119e8a', '01a21591-d80e-745d-ac07-53d80081eca3', NULL, 'replay', 'test', '\xdaf562636174ccd9eedc0953fa700a391ba58d782bb37c04949baf979ee3664e', 1, 'th_test_WUGX', 'WVpY', '{}', '{claude-3-5-haiku-20241022,claude-sonnet-4-20250514,gemini-2.5-flash,gpt-4.1,gpt-4o,gpt-4o-mini}', '{}', '', '2026-11-26 01:56:49.454751+00', '2026-11-26 01:56:49.454751+00', NULL, NULL, NULL, NULL, '{}', NULL, NULL, NULL, 1),
	('01a21591-d8d2-710a-bb84-b2e9d72a4108', '01a21591-d8f1-7381-94a1-b717452e8ba4', '01a21591-d8e8-7baf-8ead-29760acfc68c', '01a21591-d8bd-73d6-9922-8f23502c6287', NULL, 'replay', 'test', '\xd22c7128d0fe16185492591b8d94de1f6b28294a2aab03e7d5ed8079a3431685', 1, 'th_test_g4eB', 'VQJb', '{}', '{claude-3-5-haiku-20241022,claude-sonnet-4-20250514,gemini-2.5-flash,gpt-4.1,gpt-4o,gpt-4o-mini}', '{}', '', '2026-11-26 01:56:49.521154+00', '2026-11-26 01:56:49.521154+00', NULL, NULL, NULL, NULL, '{}', NULL, NULL, NULL, 1),
	('01a21591-d8d2-710a-bb84-b2e9d72a4108', '01a21591-d908-7332-8c3b-90d60c5d321d', '01a21591-d8e8-7baf-8ead-29760acfc68c', '01a21591-d8c7-7a34-aa7c-faf38b19d29b', NULL, 'replay', 'test', '\xb0d6bc3c32f3b73718d8fe9b179a3800f9465c0760c28619c9f3e5d31aecdcf8', 1, 'th_test_ggNT', 'glPo', '{}', '{claude-3-5-haiku-20241022,claude-sonnet-4-20250514,gemini-2.5-flash,gpt-4.1,gpt-4o,gpt-4o-mini}', '{}', '', '2026-11-26 01:56:49.54448+00', '2026-11-26 01:56:49.54448+00', NULL, NULL, NULL, NULL, '{}', NULL, NULL, NULL, 1),
	('01a21591-d92d-7608-b484-8558c02f4cd8', '01a21591-d941-79e0-87b0-0503f7bd6baa', '01a21591-d939-72c4-b21e-4c7e3f1b8304', '01a21591-d923-7fb8-9aac-3d6bce21fb2c', NULL, 'replay', 'test', '\x043facf48e2c7d189407a3fa80a16e83382180fb77bf43884d0d3974cd263d3e', 1, 'th_test_oWn5', 'XoEY', '{}', '{claude-3-5-haiku-20241022,claude-sonnet-4-20250514,gemini-2.5-flash,gpt-4.1,gpt-4o,gpt-4o-mini}', '{}', '', '2026-11-26 01:56:49.601751+00', '2026-11-26 01:56:49.601751+00', NULL, NULL, NULL, NULL, '{}', NULL, NULL, NULL, 1),
	('01a21591-d819-7f2b-9f47-663bd3ad93fd', '01a21591-d879-790b-8a70-72ab6866c4fc', '01a21591-d846-79e8-a575-b04a50e9ece2', '01a21591-d80e-745d-ac07-53d80081eca3', NULL, 'replay', 'test', '\x8dc79605b3e475ebc96e9f528af1ce387a3a42b80d4c4aacdafe82b41a6de657', 1, 'th_test_wIej', 'Ecj6', '{}', '{claude-3-5-haiku-20241022,claude-sonnet-4-20250514,gemini-2.5-flash,gpt-4.1,gpt-4o,gpt-4o-mini}', '{}', '', '2026-11-26 01:56:49.401029+00', '2026-11-26 01:56:49.401029+00', NULL, NULL, NULL, '2026-11-26 01:56:49.793185+00', '{}', NULL, NULL, NULL, 1);
INSERT INTO identity.audit_events VALUES
	('01a21591-d11e-7afc-9ea2-bf72cfad255f', 1, '01a21591-d1b7-792e-a8ab-4d1f5f998296', '2026-11-26 01:56:47.512184+00', 'CreateUser', 'operator:cli', NULL, 'user', '01a21591-d118-75d2-86af-2f09e989170a', '[]', '127.0.0.1', 'grpc-python-asyncio/1.85.1 grpc-c/58.0.0 (linux; chttp2)', 'tollhouse-replay:northwind:user-1', '\x0000000000000000000000000000000000000000000000000000000000000000', '\xa515862f47094aeca67ff550d9ad9ada07c854a17b87902a65ae35d70255e31a'),
	('01a21591-d215-76e6-b100-97ca42b1b434', 1, '01a21591-d218-7ce5-a5e3-b20646739d3d', '2026-11-26 01:56:47.763175+00', 'CreateUser', 'operator:cli', NULL, 'user', '01a21591-d213-7560-a1e5-06a31945dc79', '[]', '127.0.0.1', 'grpc-python-asyncio/1.85.1 grpc-c/58.0.0 (linux; chttp2)', 'tollhouse-replay:northwind:user-2', '\x0000000000000000000000000000000000000000000000000000000000000000', '\xe89c60673a2a0794ab5a48f6ffa6794d4a018f8d90b297f782cf7d6ee6812fab'),
	('01a21591-d224-775b-85aa-042038161cb5', 1, '01a21591-d229-7b16-a495-327c703a26a0', '2026-11-26 01:56:47.778568+00', 'CreateUser', 'operator:cli', NULL, 'user', '01a21591-d222-7eb2-9ee1-3477e3460383', '[]', '127.0.0.1', 'grpc-python-asyncio/1.85.1 grpc-c/58.0.0 (linux; chttp2)', 'tollhouse-replay:northwind:user-3', '\x0000000000000000000000000000000000000000000000000000000000000000', '\xc205333ac0aa8fc82b30492980375611b158c003475bf83eca62641426d4f5a5'),
	('01a21591-d231-7cb5-b271-1ebc94bdd3ed', 1, '01a21591-d235-71ff-892b-3c9cc289f5a2', '2026-11-26 01:56:47.791838+00', 'CreateUser', 'operator:cli', NULL, 'user', '01a21591-d22f-770b-b594-fdd45ba480e3', '[]', '127.0.0.1', 'grpc-python-asyncio/1.85.1 grpc-c/58.0.0 (linux; chttp2)', 'tollhouse-replay:northwind:user-4', '\x0000000000000000000000000000000000000000000000000000000000000000', '\x6fd6801b815d7f93204742ecb8f85b744cb1db41a79f4e083f87cdc1b925cf54'),
	('01a21591-d248-7f3c-b264-e85ced818edb', 1, '01a21591-d257-760b-94d0-4295390b7b93', '2026-11-26 01:56:47.816671+00', 'CreateOrganization', 'operator:cli', NULL, 'organization', '01a21591-d248-7f3c-b264-e85ced818edb', '[{"after": "Northwind Research", "field": "name", "before": null}, {"after": "01a21591-d118-75d2-86af-2f09e989170a", "field": "owner_user_id", "before": null}]', '127.0.0.1', 'grpc-python-asyncio/1.85.1 grpc-c/58.0.0 (linux; chttp2)', 'tollhouse-replay:northwind', '\x0000000000000000000000000000000000000000000000000000000000000000', '\x8911c6fa9f231035181470da18bb685e49788ab2cae1c4f6ce25248a50bfb32f'),
	('01a21591-d248-7f3c-b264-e85ced818edb', 2, '01a21591-d273-7cd9-95bf-ee1317747b84', '2026-11-26 01:56:47.844039+00', 'AddMember', 'operator:cli', NULL, 'member', '01a21591-d213-7560-a1e5-06a31945dc79', '[{"after": "member", "field": "role", "before": null}]', '127.0.0.1', 'grpc-python-asyncio/1.85.1 grpc-c/58.0.0 (linux; chttp2)', 'tollhouse-replay:northwind:01a21591-d213-7560-a1e5-06a31945dc79', '\x8911c6fa9f231035181470da18bb685e49788ab2cae1c4f6ce25248a50bfb32f', '\xe67c5ee2390b371c82791868747273c82552b15ed58a29fc5cc6ab487e9495d2'),
	('01a21591-d248-7f3c-b264-e85ced818edb', 3, '01a21591-d288-73d2-b731-adc1473ada2f', '2026-11-26 01:56:47.869086+00', 'AddMember', 'operator:cli', NULL, 'member', '01a21591-d222-7eb2-9ee1-3477e3460383', '[{"after": "member", "field": "role", "before": null}]', '127.0.0.1', 'grpc-python-asyncio/1.85.1 grpc-c/58.0.0 (linux; chttp2)', 'tollhouse-replay:northwind:01a21591-d222-7eb2-9ee1-3477e3460383', '\xe67c5ee2390b371c82791868747273c82552b15ed58a29fc5cc6ab487e9495d2', '\xf1778cad2fadf605738ddb306b684378e017b2f352f76afc0170c28e08f81db2'),
	('01a21591-d248-7f3c-b264-e85ced818edb', 4, '01a21591-d317-7931-b7a0-187feebb1646', '2026-11-26 01:56:48.011254+00', 'AddMember', 'operator:cli', NULL, 'member', '01a21591-d22f-770b-b594-fdd45ba480e3', '[{"after": "member", "field": "role", "before": null}]', '127.0.0.1', 'grpc-python-asyncio/1.85.1 grpc-c/58.0.0 (linux; chttp2)', 'tollhouse-replay:northwind:01a21591-d22f-770b-b594-fdd45ba480e3', '\xf1778cad2fadf605738ddb306b684378e017b2f352f76afc0170c28e08f81db2', '\x741018e392852f53f587438c8096097ae45b9ef293d12b24b38af4bac066d026'),
	('01a21591-d248-7f3c-b264-e85ced818edb', 5, '01a21591-d3b4-758f-a886-17fde636baa0', '2026-11-26 01:56:48.058237+00', 'CreateProject', 'operator:cli', NULL, 'project', '01a21591-d33a-7e73-b818-ce3e7ad7d2a5', '[{"after": "assistant", "field": "name", "before": null}]', '127.0.0.1', 'grpc-python-asyncio/1.85.1 grpc-c/58.0.0 (linux; chttp2)', 'tollhouse-replay:northwind:assistant', '\x741018e392852f53f587438c8096097ae45b9ef293d12b24b38af4bac066d026', '\xb6897dbcc8aa8fd3fb574c11731f88f19c95f133b620ab39c8a248b2ccb82805'),
	('01a21591-d248-7f3c-b264-e85ced818edb', 6, '01a21591-d3d3-7855-9d64-316795aa2344', '2026-11-26 01:56:48.191852+00', 'CreateProject', 'operator:cli', NULL, 'project', '01a21591-d3bf-7946-a686-4a4c64f29467', '[{"after": "search", "field": "name", "before": null}]', '127.0.0.1', 'grpc-python-asyncio/1.85.1 grpc-c/58.0.0 (linux; chttp2)', 'tollhouse-replay:northwind:search', '\xb6897dbcc8aa8fd3fb574c11731f88f19c95f133b620ab39c8a248b2ccb82805', '\xbdda0d32792e041ec209deb013f1ec1e414759f5a1298c8079349adad875e6ef'),
	('01a21591-d248-7f3c-b264-e85ced818edb', 7, '01a21591-d3f2-7ea1-adf1-12ebd994f2cf', '2026-11-26 01:56:48.222747+00', 'CreateProject', 'operator:cli', NULL, 'project', '01a21591-d3de-796a-8c93-62b403054b94', '[{"after": "evaluation", "field": "name", "before": null}]', '127.0.0.1', 'grpc-python-asyncio/1.85.1 grpc-c/58.0.0 (linux; chttp2)', 'tollhouse-replay:northwind:evaluation', '\xbdda0d32792e041ec209deb013f1ec1e414759f5a1298c8079349adad875e6ef', '\xcb26559ce72e3a7688043e59ca99457901e450932d2ac0fee8f4363c1567095f'),
	('01a21591-d248-7f3c-b264-e85ced818edb', 8, '01a21591-d474-743c-b4b0-4460ede39b2a', '2026-11-26 01:56:48.271416+00', 'CreateApiKey', 'operator:cli', NULL, 'api_key', '01a21591-d40f-7e0b-90ec-8cd6702e09f8', '[{"after": "", "field": "scopes", "before": null}]', '127.0.0.1', 'grpc-python-asyncio/1.85.1 grpc-c/58.0.0 (linux; chttp2)', 'tollhouse-replay:northwind:01a21591-d33a-7e73-b818-ce3e7ad7d2a5:01a21591-d118-75d2-86af-2f09e989170a', '\xcb26559ce72e3a7688043e59ca99457901e450932d2ac0fee8f4363c1567095f', '\xabf19c2ecec7bf7863b48d5b06ed6d1b698373270975f50a561c44dc6a2bab58'),
	('01a21591-d248-7f3c-b264-e85ced818edb', 9, '01a21591-d4af-7a80-8864-6e914cc96640', '2026-11-26 01:56:48.391782+00', 'CreateApiKey', 'operator:cli', NULL, 'api_key', '01a21591-d487-7bcd-868b-e7fef7496f28', '[{"after": "", "field": "scopes", "before": null}]', '127.0.0.1', 'grpc-python-asyncio/1.85.1 grpc-c/58.0.0 (linux; chttp2)', 'tollhouse-replay:northwind:01a21591-d33a-7e73-b818-ce3e7ad7d2a5:01a21591-d213-7560-a1e5-06a31945dc79', '\xabf19c2ecec7bf7863b48d5b06ed6d1b698373270975f50a561c44dc6a2bab58', '\x2c6ad305f799eb96ab991a7f2de6963a1372087e00ec25c723a976a84c786181'),
	('01a21591-d248-7f3c-b264-e85ced818edb', 10, '01a21591-d4e1-73fc-90b1-00827b296898', '2026-11-26 01:56:48.451362+00', 'CreateApiKey', 'operator:cli', NULL, 'api_key', '01a21591-d4c3-7601-80e7-67a87d2f6726', '[{"after": "", "field": "scopes", "before": null}]', '127.0.0.1', 'grpc-python-asyncio/1.85.1 grpc-c/58.0.0 (linux; chttp2)', 'tollhouse-replay:northwind:01a21591-d33a-7e73-b818-ce3e7ad7d2a5:01a21591-d222-7eb2-9ee1-3477e3460383', '\x2c6ad305f799eb96ab991a7f2de6963a1372087e00ec25c723a976a84c786181', '\xb9a454464f19d5305bc0be2fa328bc910b633c3cab07e951a5db3ba4fcd95a85'),
	('01a21591-d248-7f3c-b264-e85ced818edb', 11, '01a21591-d51e-7cdf-afd5-70acff99ba03', '2026-11-26 01:56:48.502098+00', 'CreateApiKey', 'operator:cli', NULL, 'api_key', '01a21591-d4f6-7753-85b7-93dfeac2731a', '[{"after": "", "field": "scopes", "before": null}]', '127.0.0.1', 'grpc-python-asyncio/1.85.1 grpc-c/58.0.0 (linux; chttp2)', 'tollhouse-replay:northwind:01a21591-d33a-7e73-b818-ce3e7ad7d2a5:01a21591-d22f-770b-b594-fdd45ba480e3', '\xb9a454464f19d5305bc0be2fa328bc910b633c3cab07e951a5db3ba4fcd95a85', '\x1a67765bf5019f86352fbed9a4dee8f13b74e5a467baf8089a6949356b119a6f'),
	('01a21591-d248-7f3c-b264-e85ced818edb', 12, '01a21591-d551-777a-ae15-e0840cc18586', '2026-11-26 01:56:48.557228+00', 'CreateApiKey', 'operator:cli', NULL, 'api_key', '01a21591-d52d-7d9c-ab34-2496c2cd394d', '[{"after": "", "field": "scopes", "before": null}]', '127.0.0.1', 'grpc-python-asyncio/1.85.1 grpc-c/58.0.0 (linux; chttp2)', 'tollhouse-replay:northwind:01a21591-d3bf-7946-a686-4a4c64f29467:01a21591-d118-75d2-86af-2f09e989170a', '\x1a67765bf5019f86352fbed9a4dee8f13b74e5a467baf8089a6949356b119a6f', '\x28fa0885998e363b7f4295b4757adcb075d8e05c31e2d4bd8aef332cf188120e'),
	('01a21591-d248-7f3c-b264-e85ced818edb', 13, '01a21591-d58a-7602-bb59-54564c14b168', '2026-11-26 01:56:48.611747+00', 'CreateApiKey', 'operator:cli', NULL, 'api_key', '01a21591-d563-7f01-aa8b-4c390d9a6b42', '[{"after": "", "field": "scopes", "before": null}]', '127.0.0.1', 'grpc-python-asyncio/1.85.1 grpc-c/58.0.0 (linux; chttp2)', 'tollhouse-replay:northwind:01a21591-d3bf-7946-a686-4a4c64f29467:01a21591-d213-7560-a1e5-06a31945dc79', '\x28fa0885998e363b7f4295b4757adcb075d8e05c31e2d4bd8aef332cf188120e', '\x67f3668992f237cfb7ac871ebb6bfe8cb4d1b7ca597247bdbd3dee930bc3ca3e'),
	('01a21591-d248-7f3c-b264-e85ced818edb', 14, '01a21591-d5ca-7a0b-9f9a-8c6151b800ed', '2026-11-26 01:56:48.676188+00', 'CreateApiKey', 'operator:cli', NULL, 'api_key', '01a21591-d5a4-746a-a196-5d57936891a0', '[{"after": "", "field": "scopes", "before": null}]', '127.0.0.1', 'grpc-python-asyncio/1.85.1 grpc-c/58.0.0 (linux; chttp2)', 'tollhouse-replay:northwind:01a21591-d3bf-7946-a686-4a4c64f29467:01a21591-d222-7eb2-9ee1-3477e3460383', '\x67f3668992f237cfb7ac871ebb6bfe8cb4d1b7ca597247bdbd3dee930bc3ca3e', '\xd39a9b6d6354c5e6a38162ac93a09fb3ab89251c0f3a82e2e9180be0a510bf4c'),
	('01a21591-d248-7f3c-b264-e85ced818edb', 15, '01a21591-d5f9-777e-98cb-55f7950d4ad0', '2026-11-26 01:56:48.731826+00', 'CreateApiKey', 'operator:cli', NULL, 'api_key', '01a21591-d5db-7b4d-9165-2a282ec590df', '[{"after": "", "field": "scopes", "before": null}]', '127.0.0.1', 'grpc-python-asyncio/1.85.1 grpc-c/58.0.0 (linux; chttp2)', 'tollhouse-replay:northwind:01a21591-d3bf-7946-a686-4a4c64f29467:01a21591-d22f-770b-b594-fdd45ba480e3', '\xd39a9b6d6354c5e6a38162ac93a09fb3ab89251c0f3a82e2e9180be0a510bf4c', '\x1f70393f33ea2dd6a00e60c1ad94cfccec1bbf11e322b82291d247338bbcc9bd'),
	('01a21591-d802-711d-bb49-50e2cc1e2545', 1, '01a21591-d806-74f1-a6d7-2e52e72288f1', '2026-11-26 01:56:49.28151+00', 'CreateUser', 'operator:cli', NULL, 'user', '01a21591-d801-7bea-955a-e6a795908c11', '[]', '127.0.0.1', 'grpc-python-asyncio/1.85.1 grpc-c/58.0.0 (linux; chttp2)', 'tollhouse-replay:cedarpine:user-2', '\x0000000000000000000000000000000000000000000000000000000000000000', '\xed10b74846a07c49b870aef579b1f27bc24c30e6fdeec311b817de4c00d1c3e3'),
	('01a21591-d248-7f3c-b264-e85ced818edb', 16, '01a21591-d629-779f-8d10-f22cb415bb7d', '2026-11-26 01:56:48.781393+00', 'CreateApiKey', 'operator:cli', NULL, 'api_key', '01a21591-d60d-7854-8345-bccb37f8728a', '[{"after": "", "field": "scopes", "before": null}]', '127.0.0.1', 'grpc-python-asyncio/1.85.1 grpc-c/58.0.0 (linux; chttp2)', 'tollhouse-replay:northwind:01a21591-d3de-796a-8c93-62b403054b94:01a21591-d118-75d2-86af-2f09e989170a', '\x1f70393f33ea2dd6a00e60c1ad94cfccec1bbf11e322b82291d247338bbcc9bd', '\xcc042bb09bffac81f5bff8cfbd2188a17455b49aafc1d3604105df9fb5e6b27b'),
	('01a21591-d248-7f3c-b264-e85ced818edb', 17, '01a21591-d65f-733b-8bf5-4f2676c24467', '2026-11-26 01:56:48.830211+00', 'CreateApiKey', 'operator:cli', NULL, 'api_key', '01a21591-d63e-7089-a040-e3c081b3c1b1', '[{"after": "", "field": "scopes", "before": null}]', '127.0.0.1', 'grpc-python-asyncio/1.85.1 grpc-c/58.0.0 (linux; chttp2)', 'tollhouse-replay:northwind:01a21591-d3de-796a-8c93-62b403054b94:01a21591-d213-7560-a1e5-06a31945dc79', '\xcc042bb09bffac81f5bff8cfbd2188a17455b49aafc1d3604105df9fb5e6b27b', '\x02d828295bc6b9c5da828aec9332c4657ec6a66b81c7d5017298d47e7766e9c5'),
	('01a21591-d248-7f3c-b264-e85ced818edb', 18, '01a21591-d6b5-76f4-b9b3-ca827ff43019', '2026-11-26 01:56:48.880974+00', 'CreateApiKey', 'operator:cli', NULL, 'api_key', '01a21591-d670-75d7-bab8-e586997112b0', '[{"after": "", "field": "scopes", "before": null}]', '127.0.0.1', 'grpc-python-asyncio/1.85.1 grpc-c/58.0.0 (linux; chttp2)', 'tollhouse-replay:northwind:01a21591-d3de-796a-8c93-62b403054b94:01a21591-d222-7eb2-9ee1-3477e3460383', '\x02d828295bc6b9c5da828aec9332c4657ec6a66b81c7d5017298d47e7766e9c5', '\xc0a529c93f35f2f9cc8c5f34903a87d80f041a92b8bbf5e547461c7c5b732fb0'),
	('01a21591-d248-7f3c-b264-e85ced818edb', 19, '01a21591-d6d9-7d10-bf7d-d57ba8f86ebe', '2026-11-26 01:56:48.963841+00', 'CreateApiKey', 'operator:cli', NULL, 'api_key', '01a21591-d6c3-75f3-94ba-e246e6c22917', '[{"after": "", "field": "scopes", "before": null}]', '127.0.0.1', 'grpc-python-asyncio/1.85.1 grpc-c/58.0.0 (linux; chttp2)', 'tollhouse-replay:northwind:01a21591-d3de-796a-8c93-62b403054b94:01a21591-d22f-770b-b594-fdd45ba480e3', '\xc0a529c93f35f2f9cc8c5f34903a87d80f041a92b8bbf5e547461c7c5b732fb0', '\x27f869e8e8a529f3ae6103c8c289370d6b64ec724de859a32e48ac4b296128f8'),
	('01a21591-d6ea-7036-bfd7-110be3da098c', 1, '01a21591-d6f3-7227-955f-7dff20b19a93', '2026-11-26 01:56:48.999373+00', 'CreateUser', 'operator:cli', NULL, 'user', '01a21591-d6e7-7984-bcf7-f477afc4fdc2', '[]', '127.0.0.1', 'grpc-python-asyncio/1.85.1 grpc-c/58.0.0 (linux; chttp2)', 'tollhouse-replay:blueharbor:user-1', '\x0000000000000000000000000000000000000000000000000000000000000000', '\xc1cd3c6b03293b38db06efa0e01bf29a2c364161db97b988c730b26e5bdf5b9e'),
	('01a21591-d713-7036-86ee-0afe3f15bf91', 1, '01a21591-d72e-7bf8-8e29-63e885bdd223', '2026-11-26 01:56:49.034757+00', 'CreateUser', 'operator:cli', NULL, 'user', '01a21591-d70a-7da9-bdee-d689cb13d367', '[]', '127.0.0.1', 'grpc-python-asyncio/1.85.1 grpc-c/58.0.0 (linux; chttp2)', 'tollhouse-replay:blueharbor:user-2', '\x0000000000000000000000000000000000000000000000000000000000000000', '\x4285e03770a0a2d83ddd1e8b0c1fbc48a790618128f4e382032d1971bcfe1451'),
	('01a21591-d776-719d-96d5-8a04577d6664', 1, '01a21591-d77b-7db1-91f8-1af0bec54b77', '2026-11-26 01:56:49.138856+00', 'CreateUser', 'operator:cli', NULL, 'user', '01a21591-d772-79a7-b44c-8a7662429fc8', '[]', '127.0.0.1', 'grpc-python-asyncio/1.85.1 grpc-c/58.0.0 (linux; chttp2)', 'tollhouse-replay:blueharbor:user-3', '\x0000000000000000000000000000000000000000000000000000000000000000', '\xfa90d4b1fabfa44d88a689d956c041de21a6c4f4b6bceb1dc39c791bc30f382f'),
	('01a21591-d781-72d3-91d4-64e3319ae858', 1, '01a21591-d784-77a0-a6e4-0e64aa54a27e', '2026-11-26 01:56:49.153315+00', 'CreateOrganization', 'operator:cli', NULL, 'organization', '01a21591-d781-72d3-91d4-64e3319ae858', '[{"after": "Blue Harbor Logistics", "field": "name", "before": null}, {"after": "01a21591-d6e7-7984-bcf7-f477afc4fdc2", "field": "owner_user_id", "before": null}]', '127.0.0.1', 'grpc-python-asyncio/1.85.1 grpc-c/58.0.0 (linux; chttp2)', 'tollhouse-replay:blueharbor', '\x0000000000000000000000000000000000000000000000000000000000000000', '\x1c6fc2653cd0d352727a4c09dc96c82e3b0ae03cbf69be898eacc7bfc823ff34'),
	('01a21591-d781-72d3-91d4-64e3319ae858', 2, '01a21591-d78b-787d-a35f-22e818eb0165', '2026-11-26 01:56:49.160596+00', 'AddMember', 'operator:cli', NULL, 'member', '01a21591-d70a-7da9-bdee-d689cb13d367', '[{"after": "member", "field": "role", "before": null}]', '127.0.0.1', 'grpc-python-asyncio/1.85.1 grpc-c/58.0.0 (linux; chttp2)', 'tollhouse-replay:blueharbor:01a21591-d70a-7da9-bdee-d689cb13d367', '\x1c6fc2653cd0d352727a4c09dc96c82e3b0ae03cbf69be898eacc7bfc823ff34', '\xd0802a3330668256dc3ed5384188f1cba3c8544f0066be340e445d5f0b26264c'),
	('01a21591-d781-72d3-91d4-64e3319ae858', 3, '01a21591-d793-7e76-937c-445ee675b978', '2026-11-26 01:56:49.16728+00', 'AddMember', 'operator:cli', NULL, 'member', '01a21591-d772-79a7-b44c-8a7662429fc8', '[{"after": "member", "field": "role", "before": null}]', '127.0.0.1', 'grpc-python-asyncio/1.85.1 grpc-c/58.0.0 (linux; chttp2)', 'tollhouse-replay:blueharbor:01a21591-d772-79a7-b44c-8a7662429fc8', '\xd0802a3330668256dc3ed5384188f1cba3c8544f0066be340e445d5f0b26264c', '\xaece48fc292f43389f21cc31e84441a87dade40893f3fe799c32c9b75f754631'),
	('01a21591-d781-72d3-91d4-64e3319ae858', 4, '01a21591-d799-7da8-a3d0-172c1bc63ac3', '2026-11-26 01:56:49.175109+00', 'CreateProject', 'operator:cli', NULL, 'project', '01a21591-d797-7585-a0ba-1fe5092330d0', '[{"after": "dispatch", "field": "name", "before": null}]', '127.0.0.1', 'grpc-python-asyncio/1.85.1 grpc-c/58.0.0 (linux; chttp2)', 'tollhouse-replay:blueharbor:dispatch', '\xaece48fc292f43389f21cc31e84441a87dade40893f3fe799c32c9b75f754631', '\xbddd4080999aae142ef155a1ca2d7440ce6b381b45ea1f35cab181f6c2c19da3'),
	('01a21591-d781-72d3-91d4-64e3319ae858', 5, '01a21591-d79d-7578-ac4f-415522875bed', '2026-11-26 01:56:49.179762+00', 'CreateProject', 'operator:cli', NULL, 'project', '01a21591-d79b-779d-8de9-8cf22b7a54f0', '[{"after": "support", "field": "name", "before": null}]', '127.0.0.1', 'grpc-python-asyncio/1.85.1 grpc-c/58.0.0 (linux; chttp2)', 'tollhouse-replay:blueharbor:support', '\xbddd4080999aae142ef155a1ca2d7440ce6b381b45ea1f35cab181f6c2c19da3', '\xeaa13dcbc3cc36da012e81e85732d997668c6b34343660ffc82937ad5ce88243'),
	('01a21591-d781-72d3-91d4-64e3319ae858', 6, '01a21591-d7a5-75cb-89f5-ce3804dd3427', '2026-11-26 01:56:49.183867+00', 'CreateApiKey', 'operator:cli', NULL, 'api_key', '01a21591-d79f-7492-b56f-0cc2a5123255', '[{"after": "", "field": "scopes", "before": null}]', '127.0.0.1', 'grpc-python-asyncio/1.85.1 grpc-c/58.0.0 (linux; chttp2)', 'tollhouse-replay:blueharbor:01a21591-d797-7585-a0ba-1fe5092330d0:01a21591-d6e7-7984-bcf7-f477afc4fdc2', '\xeaa13dcbc3cc36da012e81e85732d997668c6b34343660ffc82937ad5ce88243', '\x576a4029fb6dcc286e96d2bc261328abd999c43bc6b9bfddafec7d6d73430772'),
	('01a21591-d781-72d3-91d4-64e3319ae858', 7, '01a21591-d7ae-767d-9832-317318006abb', '2026-11-26 01:56:49.194091+00', 'CreateApiKey', 'operator:cli', NULL, 'api_key', '01a21591-d7aa-72ee-a6e7-55ab62cf9a0f', '[{"after": "", "field": "scopes", "before": null}]', '127.0.0.1', 'grpc-python-asyncio/1.85.1 grpc-c/58.0.0 (linux; chttp2)', 'tollhouse-replay:blueharbor:01a21591-d797-7585-a0ba-1fe5092330d0:01a21591-d70a-7da9-bdee-d689cb13d367', '\x576a4029fb6dcc286e96d2bc261328abd999c43bc6b9bfddafec7d6d73430772', '\x319c4921b70a2746e46715c896a340a9b10c9a734baded9fae9d1140226def11'),
	('01a21591-d781-72d3-91d4-64e3319ae858', 8, '01a21591-d7b5-7f30-9d2d-8982a7b890fc', '2026-11-26 01:56:49.201328+00', 'CreateApiKey', 'operator:cli', NULL, 'api_key', '01a21591-d7b1-7911-bafc-6589d0146838', '[{"after": "", "field": "scopes", "before": null}]', '127.0.0.1', 'grpc-python-asyncio/1.85.1 grpc-c/58.0.0 (linux; chttp2)', 'tollhouse-replay:blueharbor:01a21591-d797-7585-a0ba-1fe5092330d0:01a21591-d772-79a7-b44c-8a7662429fc8', '\x319c4921b70a2746e46715c896a340a9b10c9a734baded9fae9d1140226def11', '\x94262fe828098153670f5303d9959bf857a9b6b6b2049f7ca94830feaeb82839'),
	('01a21591-d781-72d3-91d4-64e3319ae858', 9, '01a21591-d7c1-7101-8439-fe2938745dfe', '2026-11-26 01:56:49.21365+00', 'CreateApiKey', 'operator:cli', NULL, 'api_key', '01a21591-d7bd-7e4b-b261-175db0f1a2a0', '[{"after": "", "field": "scopes", "before": null}]', '127.0.0.1', 'grpc-python-asyncio/1.85.1 grpc-c/58.0.0 (linux; chttp2)', 'tollhouse-replay:blueharbor:01a21591-d79b-779d-8de9-8cf22b7a54f0:01a21591-d6e7-7984-bcf7-f477afc4fdc2', '\x94262fe828098153670f5303d9959bf857a9b6b6b2049f7ca94830feaeb82839', '\x98714b0b6a74a663cb7d43e9beee221e9f1bcc0a045956e24d63081d850da532'),
	('01a21591-d781-72d3-91d4-64e3319ae858', 10, '01a21591-d7cb-78f9-b9e9-555642dfbe09', '2026-11-26 01:56:49.220357+00', 'CreateApiKey', 'operator:cli', NULL, 'api_key', '01a21591-d7c4-7a7f-8df5-60277a4dca44', '[{"after": "", "field": "scopes", "before": null}]', '127.0.0.1', 'grpc-python-asyncio/1.85.1 grpc-c/58.0.0 (linux; chttp2)', 'tollhouse-replay:blueharbor:01a21591-d79b-779d-8de9-8cf22b7a54f0:01a21591-d70a-7da9-bdee-d689cb13d367', '\x98714b0b6a74a663cb7d43e9beee221e9f1bcc0a045956e24d63081d850da532', '\x41e95dd40047d0f827a5fefc037557b6efefb16411a656fed930e69311cf4078'),
	('01a21591-d781-72d3-91d4-64e3319ae858', 11, '01a21591-d7ea-72d6-8b0f-4379e5cfaca9', '2026-11-26 01:56:49.232282+00', 'CreateApiKey', 'operator:cli', NULL, 'api_key', '01a21591-d7d0-760c-8dbe-0cae4b624b3d', '[{"after": "", "field": "scopes", "before": null}]', '127.0.0.1', 'grpc-python-asyncio/1.85.1 grpc-c/58.0.0 (linux; chttp2)', 'tollhouse-replay:blueharbor:01a21591-d79b-779d-8de9-8cf22b7a54f0:01a21591-d772-79a7-b44c-8a7662429fc8', '\x41e95dd40047d0f827a5fefc037557b6efefb16411a656fed930e69311cf4078', '\x3ecc56b72f26dbd44f061631fefb0bef800f12e19a55a3716c162531fa27b63e'),
	('01a21591-d7f7-742e-904f-726dd397c9b1', 1, '01a21591-d7fa-7be7-a8fe-df11939dfb34', '2026-11-26 01:56:49.270092+00', 'CreateUser', 'operator:cli', NULL, 'user', '01a21591-d7f6-7e61-9dc3-1d2345b1f59a', '[]', '127.0.0.1', 'grpc-python-asyncio/1.85.1 grpc-c/58.0.0 (linux; chttp2)', 'tollhouse-replay:cedarpine:user-1', '\x0000000000000000000000000000000000000000000000000000000000000000', '\x3a1d049ea5b642ccf75d7a46ea50078ed0c16d6be1d4db62647d0cdac6ec9897'),
	('01a21591-d80e-75f0-8307-ae1009d81d80', 1, '01a21591-d812-70ce-9217-60fbacd511db', '2026-11-26 01:56:49.294013+00', 'CreateUser', 'operator:cli', NULL, 'user', '01a21591-d80e-745d-ac07-53d80081eca3', '[]', '127.0.0.1', 'grpc-python-asyncio/1.85.1 grpc-c/58.0.0 (linux; chttp2)', 'tollhouse-replay:cedarpine:user-3', '\x0000000000000000000000000000000000000000000000000000000000000000', '\x376340e5c8cc660663deeac675c9d33547a6adc582fcf1fd02b11649a8aa977b'),
	('01a21591-d819-7f2b-9f47-663bd3ad93fd', 1, '01a21591-d81d-7d1e-b68d-7ac0687898aa', '2026-11-26 01:56:49.305851+00', 'CreateOrganization', 'operator:cli', NULL, 'organization', '01a21591-d819-7f2b-9f47-663bd3ad93fd', '[{"after": "Cedar & Pine Clinics", "field": "name", "before": null}, {"after": "01a21591-d7f6-7e61-9dc3-1d2345b1f59a", "field": "owner_user_id", "before": null}]', '127.0.0.1', 'grpc-python-asyncio/1.85.1 grpc-c/58.0.0 (linux; chttp2)', 'tollhouse-replay:cedarpine', '\x0000000000000000000000000000000000000000000000000000000000000000', '\x962bbdc6d6abaddbac9fc85c42fdf944f02c6843916cdbe6a6fa42c44214584f'),
	('01a21591-d819-7f2b-9f47-663bd3ad93fd', 2, '01a21591-d834-7c16-8c5d-5a642aca9ab1', '2026-11-26 01:56:49.316073+00', 'AddMember', 'operator:cli', NULL, 'member', '01a21591-d801-7bea-955a-e6a795908c11', '[{"after": "member", "field": "role", "before": null}]', '127.0.0.1', 'grpc-python-asyncio/1.85.1 grpc-c/58.0.0 (linux; chttp2)', 'tollhouse-replay:cedarpine:01a21591-d801-7bea-955a-e6a795908c11', '\x962bbdc6d6abaddbac9fc85c42fdf944f02c6843916cdbe6a6fa42c44214584f', '\x08def9ef665b426a0619bc549a84c69218aab3f34e62f62c57dcd669223de410'),
	('01a21591-d819-7f2b-9f47-663bd3ad93fd', 3, '01a21591-d841-7d01-b65d-b04727097804', '2026-11-26 01:56:49.339635+00', 'AddMember', 'operator:cli', NULL, 'member', '01a21591-d80e-745d-ac07-53d80081eca3', '[{"after": "member", "field": "role", "before": null}]', '127.0.0.1', 'grpc-python-asyncio/1.85.1 grpc-c/58.0.0 (linux; chttp2)', 'tollhouse-replay:cedarpine:01a21591-d80e-745d-ac07-53d80081eca3', '\x08def9ef665b426a0619bc549a84c69218aab3f34e62f62c57dcd669223de410', '\x2db2692781a0ca81eb1e23056756327c43a74dddd740b972be1b1c6b47388b94'),
	('01a21591-d819-7f2b-9f47-663bd3ad93fd', 4, '01a21591-d84b-7255-995f-8a7079501d4c', '2026-11-26 01:56:49.35023+00', 'CreateProject', 'operator:cli', NULL, 'project', '01a21591-d846-79e8-a575-b04a50e9ece2', '[{"after": "triage", "field": "name", "before": null}]', '127.0.0.1', 'grpc-python-asyncio/1.85.1 grpc-c/58.0.0 (linux; chttp2)', 'tollhouse-replay:cedarpine:triage', '\x2db2692781a0ca81eb1e23056756327c43a74dddd740b972be1b1c6b47388b94', '\x2821870968ba640a38097bc3edbfe7c473c24fda5e0eb493f5b529dc7f01c280'),
	('01a21591-d819-7f2b-9f47-663bd3ad93fd', 5, '01a21591-d852-7af0-a5fe-2149de05e0a7', '2026-11-26 01:56:49.358964+00', 'CreateProject', 'operator:cli', NULL, 'project', '01a21591-d84e-73e7-a0ff-1c06fb119e8a', '[{"after": "letters", "field": "name", "before": null}]', '127.0.0.1', 'grpc-python-asyncio/1.85.1 grpc-c/58.0.0 (linux; chttp2)', 'tollhouse-replay:cedarpine:letters', '\x2821870968ba640a38097bc3edbfe7c473c24fda5e0eb493f5b529dc7f01c280', '\xadd677ccfb45f5990f09d6e0481b8e63432fe3a1f21a70166969a2afa0cb3d7d'),
	('01a21591-d819-7f2b-9f47-663bd3ad93fd', 6, '01a21591-d85e-7c47-868e-cd810dab2ae7', '2026-11-26 01:56:49.366919+00', 'CreateApiKey', 'operator:cli', NULL, 'api_key', '01a21591-d856-71dc-8060-a7bc2e280b7c', '[{"after": "", "field": "scopes", "before": null}]', '127.0.0.1', 'grpc-python-asyncio/1.85.1 grpc-c/58.0.0 (linux; chttp2)', 'tollhouse-replay:cedarpine:01a21591-d846-79e8-a575-b04a50e9ece2:01a21591-d7f6-7e61-9dc3-1d2345b1f59a', '\xadd677ccfb45f5990f09d6e0481b8e63432fe3a1f21a70166969a2afa0cb3d7d', '\xc9b55a68ceacfe198203c2d65646681fc1d46ff8406f1ae583f24054ef8b90c4'),
	('01a21591-d819-7f2b-9f47-663bd3ad93fd', 7, '01a21591-d873-7508-86d7-567cc5dfd294', '2026-11-26 01:56:49.38035+00', 'CreateApiKey', 'operator:cli', NULL, 'api_key', '01a21591-d864-74d9-b712-3d470e9b7ed3', '[{"after": "", "field": "scopes", "before": null}]', '127.0.0.1', 'grpc-python-asyncio/1.85.1 grpc-c/58.0.0 (linux; chttp2)', 'tollhouse-replay:cedarpine:01a21591-d846-79e8-a575-b04a50e9ece2:01a21591-d801-7bea-955a-e6a795908c11', '\xc9b55a68ceacfe198203c2d65646681fc1d46ff8406f1ae583f24054ef8b90c4', '\xc02632b6c6be61a2f36474050092118d00abfd40915559022d903143e4db4831'),
	('01a21591-d819-7f2b-9f47-663bd3ad93fd', 8, '01a21591-d881-7d03-ad1d-b1809acd0c66', '2026-11-26 01:56:49.401029+00', 'CreateApiKey', 'operator:cli', NULL, 'api_key', '01a21591-d879-790b-8a70-72ab6866c4fc', '[{"after": "", "field": "scopes", "before": null}]', '127.0.0.1', 'grpc-python-asyncio/1.85.1 grpc-c/58.0.0 (linux; chttp2)', 'tollhouse-replay:cedarpine:01a21591-d846-79e8-a575-b04a50e9ece2:01a21591-d80e-745d-ac07-53d80081eca3', '\xc02632b6c6be61a2f36474050092118d00abfd40915559022d903143e4db4831', '\x4c3ef2ec7c2f4747d5adcd5ded265b7314f52a00f3b0d359c26b458851439264'),
	('01a21591-d819-7f2b-9f47-663bd3ad93fd', 9, '01a21591-d89a-70b6-ac25-9d036f299d0e', '2026-11-26 01:56:49.424247+00', 'CreateApiKey', 'operator:cli', NULL, 'api_key', '01a21591-d890-7ded-8dec-38aa09a1c595', '[{"after": "", "field": "scopes", "before": null}]', '127.0.0.1', 'grpc-python-asyncio/1.85.1 grpc-c/58.0.0 (linux; chttp2)', 'tollhouse-replay:cedarpine:01a21591-d84e-73e7-a0ff-1c06fb119e8a:01a21591-d7f6-7e61-9dc3-1d2345b1f59a', '\x4c3ef2ec7c2f4747d5adcd5ded265b7314f52a00f3b0d359c26b458851439264', '\xc01d24f85adc3bc0283819e5ce0f23648e83ce9fc532954f2378f8ff632f853e'),
	('01a21591-d819-7f2b-9f47-663bd3ad93fd', 10, '01a21591-d8a7-712c-929a-3b3629a6f2ba', '2026-11-26 01:56:49.439304+00', 'CreateApiKey', 'operator:cli', NULL, 'api_key', '01a21591-d89f-79c5-b303-ff3af9ed6efb', '[{"after": "", "field": "scopes", "before": null}]', '127.0.0.1', 'grpc-python-asyncio/1.85.1 grpc-c/58.0.0 (linux; chttp2)', 'tollhouse-replay:cedarpine:01a21591-d84e-73e7-a0ff-1c06fb119e8a:01a21591-d801-7bea-955a-e6a795908c11', '\xc01d24f85adc3bc0283819e5ce0f23648e83ce9fc532954f2378f8ff632f853e', '\x221fee7e0b7d3a784c47503a0d75af679f05c6e78e0eb23290748dec14ee74ff'),
	('01a21591-d819-7f2b-9f47-663bd3ad93fd', 11, '01a21591-d8b9-75df-bc8b-20cade367ed7', '2026-11-26 01:56:49.454751+00', 'CreateApiKey', 'operator:cli', NULL, 'api_key', '01a21591-d8ae-7a93-980e-cc95332cf3ca', '[{"after": "", "field": "scopes", "before": null}]', '127.0.0.1', 'grpc-python-asyncio/1.85.1 grpc-c/58.0.0 (linux; chttp2)', 'tollhouse-replay:cedarpine:01a21591-d84e-73e7-a0ff-1c06fb119e8a:01a21591-d80e-745d-ac07-53d80081eca3', '\x221fee7e0b7d3a784c47503a0d75af679f05c6e78e0eb23290748dec14ee74ff', '\xcc9095db825e69fae59887204dce018b03ca8029f8b204a24811d83d1d5f5ccd'),
	('01a21591-d8c1-760f-a0a5-b4e5b8837eca', 1, '01a21591-d8c2-7761-986a-a3ddf620ddb6', '2026-11-26 01:56:49.469985+00', 'CreateUser', 'operator:cli', NULL, 'user', '01a21591-d8bd-73d6-9922-8f23502c6287', '[]', '127.0.0.1', 'grpc-python-asyncio/1.85.1 grpc-c/58.0.0 (linux; chttp2)', 'tollhouse-replay:quarrystreet:user-1', '\x0000000000000000000000000000000000000000000000000000000000000000', '\xc563730e24e7297b8ada8d3cbe71692b969b498fabd44c7402e9a257626e00ce'),
	('01a21591-d8c8-7cd4-a827-46863d13c7cc', 1, '01a21591-d8cb-74bc-80cd-e8fb625ee832', '2026-11-26 01:56:49.479682+00', 'CreateUser', 'operator:cli', NULL, 'user', '01a21591-d8c7-7a34-aa7c-faf38b19d29b', '[]', '127.0.0.1', 'grpc-python-asyncio/1.85.1 grpc-c/58.0.0 (linux; chttp2)', 'tollhouse-replay:quarrystreet:user-2', '\x0000000000000000000000000000000000000000000000000000000000000000', '\x62dc6feb5db82a67f1823cd7adea1405dd63e66bbaba1a2f59a417355bf7a5e1'),
	('01a21591-d8d2-710a-bb84-b2e9d72a4108', 1, '01a21591-d8d5-732b-b9b4-fa24ad16f511', '2026-11-26 01:56:49.490097+00', 'CreateOrganization', 'operator:cli', NULL, 'organization', '01a21591-d8d2-710a-bb84-b2e9d72a4108', '[{"after": "Quarry Street Games", "field": "name", "before": null}, {"after": "01a21591-d8bd-73d6-9922-8f23502c6287", "field": "owner_user_id", "before": null}]', '127.0.0.1', 'grpc-python-asyncio/1.85.1 grpc-c/58.0.0 (linux; chttp2)', 'tollhouse-replay:quarrystreet', '\x0000000000000000000000000000000000000000000000000000000000000000', '\xb1dab8a4a4cb4b31b947fae42acbcad0d71eb3d27631f00f195340f0ebff3ee1'),
	('01a21591-d8d2-710a-bb84-b2e9d72a4108', 2, '01a21591-d8df-76cf-ac7f-a02cfa2896d7', '2026-11-26 01:56:49.498924+00', 'AddMember', 'operator:cli', NULL, 'member', '01a21591-d8c7-7a34-aa7c-faf38b19d29b', '[{"after": "member", "field": "role", "before": null}]', '127.0.0.1', 'grpc-python-asyncio/1.85.1 grpc-c/58.0.0 (linux; chttp2)', 'tollhouse-replay:quarrystreet:01a21591-d8c7-7a34-aa7c-faf38b19d29b', '\xb1dab8a4a4cb4b31b947fae42acbcad0d71eb3d27631f00f195340f0ebff3ee1', '\xb9ce5a1f4f1f7ad49a6f77e0c12ba3037ee3f7326867657657aaf9759b6e0a45'),
	('01a21591-d8d2-710a-bb84-b2e9d72a4108', 3, '01a21591-d8ed-701f-9582-679f59498df9', '2026-11-26 01:56:49.512234+00', 'CreateProject', 'operator:cli', NULL, 'project', '01a21591-d8e8-7baf-8ead-29760acfc68c', '[{"after": "characters", "field": "name", "before": null}]', '127.0.0.1', 'grpc-python-asyncio/1.85.1 grpc-c/58.0.0 (linux; chttp2)', 'tollhouse-replay:quarrystreet:characters', '\xb9ce5a1f4f1f7ad49a6f77e0c12ba3037ee3f7326867657657aaf9759b6e0a45', '\x8e819ebce9c0b903a9ddf9ca198b06cc4b60569c6dc88cf64ddc3c6735fde848'),
	('01a21591-d8d2-710a-bb84-b2e9d72a4108', 4, '01a21591-d8fa-797b-9eaa-312715fc63b8', '2026-11-26 01:56:49.521154+00', 'CreateApiKey', 'operator:cli', NULL, 'api_key', '01a21591-d8f1-7381-94a1-b717452e8ba4', '[{"after": "", "field": "scopes", "before": null}]', '127.0.0.1', 'grpc-python-asyncio/1.85.1 grpc-c/58.0.0 (linux; chttp2)', 'tollhouse-replay:quarrystreet:01a21591-d8e8-7baf-8ead-29760acfc68c:01a21591-d8bd-73d6-9922-8f23502c6287', '\x8e819ebce9c0b903a9ddf9ca198b06cc4b60569c6dc88cf64ddc3c6735fde848', '\x669f537a0a825ef7a6a4f3473601018bd46c1d757b837c7aceef917040746511'),
	('01a21591-d8d2-710a-bb84-b2e9d72a4108', 5, '01a21591-d91b-731c-b5e9-f04e0ffaed97', '2026-11-26 01:56:49.54448+00', 'CreateApiKey', 'operator:cli', NULL, 'api_key', '01a21591-d908-7332-8c3b-90d60c5d321d', '[{"after": "", "field": "scopes", "before": null}]', '127.0.0.1', 'grpc-python-asyncio/1.85.1 grpc-c/58.0.0 (linux; chttp2)', 'tollhouse-replay:quarrystreet:01a21591-d8e8-7baf-8ead-29760acfc68c:01a21591-d8c7-7a34-aa7c-faf38b19d29b', '\x669f537a0a825ef7a6a4f3473601018bd46c1d757b837c7aceef917040746511', '\x0b044f8ffa189da0e9aad10647b967c9b5d5a9a02430fd97b2ac6b0a8e5ad4e9'),
	('01a21591-d927-7ae8-9f13-eb7cbf8706be', 1, '01a21591-d929-7877-bb99-5bfdf43da8c9', '2026-11-26 01:56:49.571798+00', 'CreateUser', 'operator:cli', NULL, 'user', '01a21591-d923-7fb8-9aac-3d6bce21fb2c', '[]', '127.0.0.1', 'grpc-python-asyncio/1.85.1 grpc-c/58.0.0 (linux; chttp2)', 'tollhouse-replay:oduya:user-1', '\x0000000000000000000000000000000000000000000000000000000000000000', '\x90689de170fe5f3d12136b0202b692c921d3d1ccd58ab4933ad7b8781aa19aa8'),
	('01a21591-d92d-7608-b484-8558c02f4cd8', 1, '01a21591-d932-7825-95bf-6e67eed3c9bb', '2026-11-26 01:56:49.581582+00', 'CreateOrganization', 'operator:cli', NULL, 'organization', '01a21591-d92d-7608-b484-8558c02f4cd8', '[{"after": "Marta Oduya", "field": "name", "before": null}, {"after": "01a21591-d923-7fb8-9aac-3d6bce21fb2c", "field": "owner_user_id", "before": null}]', '127.0.0.1', 'grpc-python-asyncio/1.85.1 grpc-c/58.0.0 (linux; chttp2)', 'tollhouse-replay:oduya', '\x0000000000000000000000000000000000000000000000000000000000000000', '\x501ddea9903fbf04fc03ffa446a8552e511454918ddd388a72ecfd28285e569e'),
	('01a21591-d92d-7608-b484-8558c02f4cd8', 2, '01a21591-d93c-7223-91b6-f5523bb86dd1', '2026-11-26 01:56:49.593186+00', 'CreateProject', 'operator:cli', NULL, 'project', '01a21591-d939-72c4-b21e-4c7e3f1b8304', '[{"after": "thesis", "field": "name", "before": null}]', '127.0.0.1', 'grpc-python-asyncio/1.85.1 grpc-c/58.0.0 (linux; chttp2)', 'tollhouse-replay:oduya:thesis', '\x501ddea9903fbf04fc03ffa446a8552e511454918ddd388a72ecfd28285e569e', '\x304a25e773bd729b948786cb73ab2cf4e788b00bc2f30ad38221bc34a72d6194'),
	('01a21591-d92d-7608-b484-8558c02f4cd8', 3, '01a21591-d94a-7b5e-89b9-ca81ac298cd6', '2026-11-26 01:56:49.601751+00', 'CreateApiKey', 'operator:cli', NULL, 'api_key', '01a21591-d941-79e0-87b0-0503f7bd6baa', '[{"after": "", "field": "scopes", "before": null}]', '127.0.0.1', 'grpc-python-asyncio/1.85.1 grpc-c/58.0.0 (linux; chttp2)', 'tollhouse-replay:oduya:01a21591-d939-72c4-b21e-4c7e3f1b8304:01a21591-d923-7fb8-9aac-3d6bce21fb2c', '\x304a25e773bd729b948786cb73ab2cf4e788b00bc2f30ad38221bc34a72d6194', '\x71c91c09a8dc239c5fdfb7fb1cd879b2796217efbb9b4a0db4d7709e2aca95de'),
	('01a21591-dc25-700c-b2c7-9d0260f62b2d', 1, '01a21591-dc28-773f-b44c-e47c7b17565d', '2026-11-26 01:56:50.34168+00', 'CreateUser', 'operator:cli', NULL, 'user', '01a21591-dc25-738b-99e8-3725dd6a5f74', '[]', '127.0.0.1', 'grpc-python-asyncio/1.85.1 grpc-c/58.0.0 (linux; chttp2)', '', '\x0000000000000000000000000000000000000000000000000000000000000000', '\xf1ddad7d09ab42973d5dee73deb50845daafd6200ea1b7969970c79563e3c340'),
	('01a21591-dc2c-769a-824b-3114acd37b48', 1, '01a21591-dc2e-7056-81ad-edd8d7aed890', '2026-11-26 01:56:50.348168+00', 'CreateOrganization', 'operator:cli', NULL, 'organization', '01a21591-dc2c-769a-824b-3114acd37b48', '[{"after": "Acme", "field": "name", "before": null}, {"after": "01a21591-dc25-738b-99e8-3725dd6a5f74", "field": "owner_user_id", "before": null}]', '127.0.0.1', 'grpc-python-asyncio/1.85.1 grpc-c/58.0.0 (linux; chttp2)', '', '\x0000000000000000000000000000000000000000000000000000000000000000', '\x1c43b32344b93aa2a855a61d56d071441994fc1b9889830a936ac143bab4562c'),
	('01a21591-dc31-7f7f-a400-9da373865ce3', 1, '01a21591-dc33-760d-8de6-9447beab91b9', '2026-11-26 01:56:50.35315+00', 'CreateUser', 'operator:cli', NULL, 'user', '01a21591-dc31-7e53-9555-5a3c26d1db1e', '[]', '127.0.0.1', 'grpc-python-asyncio/1.85.1 grpc-c/58.0.0 (linux; chttp2)', '', '\x0000000000000000000000000000000000000000000000000000000000000000', '\x972fe9daf6a1a87d9aea6a055fdf6565b135e38ea37f6caddd7a8e82e4a7c4c2'),
	('01a21591-dc36-70e6-b96b-67e2f6bfa593', 1, '01a21591-dc38-73e4-b871-f97664ec4337', '2026-11-26 01:56:50.358828+00', 'CreateOrganization', 'operator:cli', NULL, 'organization', '01a21591-dc36-70e6-b96b-67e2f6bfa593', '[{"after": "Euro", "field": "name", "before": null}, {"after": "01a21591-dc31-7e53-9555-5a3c26d1db1e", "field": "owner_user_id", "before": null}]', '127.0.0.1', 'grpc-python-asyncio/1.85.1 grpc-c/58.0.0 (linux; chttp2)', '', '\x0000000000000000000000000000000000000000000000000000000000000000', '\x84024bbc44bc6587823f8c011928ee864195df44e190f1f9e0240d732de98273'),
	('01a21591-dc3a-71c4-b5eb-00305fcc2367', 1, '01a21591-dc3b-7c47-851e-c4c5161dd7c3', '2026-11-26 01:56:50.361949+00', 'CreateUser', 'operator:cli', NULL, 'user', '01a21591-dc39-7c32-bcc6-3877f260e5bc', '[]', '127.0.0.1', 'grpc-python-asyncio/1.85.1 grpc-c/58.0.0 (linux; chttp2)', '', '\x0000000000000000000000000000000000000000000000000000000000000000', '\x4deafabd79b0fe8c0c08ef32ddb6eb25d5291eb383d7be15f7f1b47bcb75e5c7'),
	('01a21591-dc3d-7a32-960b-c28a8913c46a', 1, '01a21591-dc3e-7361-b5b8-b98e5a0484f2', '2026-11-26 01:56:50.365343+00', 'CreateOrganization', 'operator:cli', NULL, 'organization', '01a21591-dc3d-7a32-960b-c28a8913c46a', '[{"after": "Poor", "field": "name", "before": null}, {"after": "01a21591-dc39-7c32-bcc6-3877f260e5bc", "field": "owner_user_id", "before": null}]', '127.0.0.1', 'grpc-python-asyncio/1.85.1 grpc-c/58.0.0 (linux; chttp2)', '', '\x0000000000000000000000000000000000000000000000000000000000000000', '\xb2cc7a3bec264d0ea6cd1e455bdfcc5689795d8de4091c411ce3216456964515');
INSERT INTO identity.audit_heads VALUES
	('01a21591-d11e-7afc-9ea2-bf72cfad255f', 1, '\xa515862f47094aeca67ff550d9ad9ada07c854a17b87902a65ae35d70255e31a', '2026-11-26 01:56:47.512184+00'),
	('01a21591-d215-76e6-b100-97ca42b1b434', 1, '\xe89c60673a2a0794ab5a48f6ffa6794d4a018f8d90b297f782cf7d6ee6812fab', '2026-11-26 01:56:47.763175+00'),
	('01a21591-d224-775b-85aa-042038161cb5', 1, '\xc205333ac0aa8fc82b30492980375611b158c003475bf83eca62641426d4f5a5', '2026-11-26 01:56:47.778568+00'),
	('01a21591-d231-7cb5-b271-1ebc94bdd3ed', 1, '\x6fd6801b815d7f93204742ecb8f85b744cb1db41a79f4e083f87cdc1b925cf54', '2026-11-26 01:56:47.791838+00'),
	('01a21591-d7f7-742e-904f-726dd397c9b1', 1, '\x3a1d049ea5b642ccf75d7a46ea50078ed0c16d6be1d4db62647d0cdac6ec9897', '2026-11-26 01:56:49.270092+00'),
	('01a21591-d802-711d-bb49-50e2cc1e2545', 1, '\xed10b74846a07c49b870aef579b1f27bc24c30e6fdeec311b817de4c00d1c3e3', '2026-11-26 01:56:49.28151+00'),
	('01a21591-d80e-75f0-8307-ae1009d81d80', 1, '\x376340e5c8cc660663deeac675c9d33547a6adc582fcf1fd02b11649a8aa977b', '2026-11-26 01:56:49.294013+00'),
	('01a21591-d819-7f2b-9f47-663bd3ad93fd', 11, '\xcc9095db825e69fae59887204dce018b03ca8029f8b204a24811d83d1d5f5ccd', '2026-11-26 01:56:49.454751+00'),
	('01a21591-d8c1-760f-a0a5-b4e5b8837eca', 1, '\xc563730e24e7297b8ada8d3cbe71692b969b498fabd44c7402e9a257626e00ce', '2026-11-26 01:56:49.469985+00'),
	('01a21591-d8c8-7cd4-a827-46863d13c7cc', 1, '\x62dc6feb5db82a67f1823cd7adea1405dd63e66bbaba1a2f59a417355bf7a5e1', '2026-11-26 01:56:49.479682+00'),
	('01a21591-d248-7f3c-b264-e85ced818edb', 19, '\x27f869e8e8a529f3ae6103c8c289370d6b64ec724de859a32e48ac4b296128f8', '2026-11-26 01:56:48.963841+00'),
	('01a21591-d6ea-7036-bfd7-110be3da098c', 1, '\xc1cd3c6b03293b38db06efa0e01bf29a2c364161db97b988c730b26e5bdf5b9e', '2026-11-26 01:56:48.999373+00'),
	('01a21591-d713-7036-86ee-0afe3f15bf91', 1, '\x4285e03770a0a2d83ddd1e8b0c1fbc48a790618128f4e382032d1971bcfe1451', '2026-11-26 01:56:49.034757+00'),
	('01a21591-d776-719d-96d5-8a04577d6664', 1, '\xfa90d4b1fabfa44d88a689d956c041de21a6c4f4b6bceb1dc39c791bc30f382f', '2026-11-26 01:56:49.138856+00'),
	('01a21591-d8d2-710a-bb84-b2e9d72a4108', 5, '\x0b044f8ffa189da0e9aad10647b967c9b5d5a9a02430fd97b2ac6b0a8e5ad4e9', '2026-11-26 01:56:49.54448+00'),
	('01a21591-d927-7ae8-9f13-eb7cbf8706be', 1, '\x90689de170fe5f3d12136b0202b692c921d3d1ccd58ab4933ad7b8781aa19aa8', '2026-11-26 01:56:49.571798+00'),
	('01a21591-d92d-7608-b484-8558c02f4cd8', 3, '\x71c91c09a8dc239c5fdfb7fb1cd879b2796217efbb9b4a0db4d7709e2aca95de', '2026-11-26 01:56:49.601751+00'),
	('01a21591-dc25-700c-b2c7-9d0260f62b2d', 1, '\xf1ddad7d09ab42973d5dee73deb50845daafd6200ea1b7969970c79563e3c340', '2026-11-26 01:56:50.34168+00'),
	('01a21591-dc2c-769a-824b-3114acd37b48', 1, '\x1c43b32344b93aa2a855a61d56d071441994fc1b9889830a936ac143bab4562c', '2026-11-26 01:56:50.348168+00'),
	('01a21591-dc31-7f7f-a400-9da373865ce3', 1, '\x972fe9daf6a1a87d9aea6a055fdf6565b135e38ea37f6caddd7a8e82e4a7c4c2', '2026-11-26 01:56:50.35315+00'),
	('01a21591-d781-72d3-91d4-64e3319ae858', 11, '\x3ecc56b72f26dbd44f061631fefb0bef800f12e19a55a3716c162531fa27b63e', '2026-11-26 01:56:49.232282+00'),
	('01a21591-dc36-70e6-b96b-67e2f6bfa593', 1, '\x84024bbc44bc6587823f8c011928ee864195df44e190f1f9e0240d732de98273', '2026-11-26 01:56:50.358828+00'),
	('01a21591-dc3a-71c4-b5eb-00305fcc2367', 1, '\x4deafabd79b0fe8c0c08ef32ddb6eb25d5291eb383d7be15f7f1b47bcb75e5c7', '2026-11-26 01:56:50.361949+00'),
	('01a21591-dc3d-7a32-960b-c28a8913c46a', 1, '\xb2cc7a3bec264d0ea6cd1e455bdfcc5689795d8de4091c411ce3216456964515', '2026-11-26 01:56:50.365343+00');
INSERT INTO identity.key_changes VALUES
	(2, 'role_changed', 'user', '01a21591-d213-7560-a1e5-06a31945dc79', '01a21591-d248-7f3c-b264-e85ced818edb', '2026-11-26 01:56:47.844039+00'),
	(3, 'role_changed', 'user', '01a21591-d222-7eb2-9ee1-3477e3460383', '01a21591-d248-7f3c-b264-e85ced818edb', '2026-11-26 01:56:47.869086+00'),
	(4, 'role_changed', 'user', '01a21591-d22f-770b-b594-fdd45ba480e3', '01a21591-d248-7f3c-b264-e85ced818edb', '2026-11-26 01:56:48.011254+00'),
	(5, 'created', 'api_key', '01a21591-d40f-7e0b-90ec-8cd6702e09f8', '01a21591-d248-7f3c-b264-e85ced818edb', '2026-11-26 01:56:48.271416+00'),
	(6, 'created', 'api_key', '01a21591-d487-7bcd-868b-e7fef7496f28', '01a21591-d248-7f3c-b264-e85ced818edb', '2026-11-26 01:56:48.391782+00'),
	(7, 'created', 'api_key', '01a21591-d4c3-7601-80e7-67a87d2f6726', '01a21591-d248-7f3c-b264-e85ced818edb', '2026-11-26 01:56:48.451362+00'),
	(8, 'created', 'api_key', '01a21591-d4f6-7753-85b7-93dfeac2731a', '01a21591-d248-7f3c-b264-e85ced818edb', '2026-11-26 01:56:48.502098+00'),
	(9, 'created', 'api_key', '01a21591-d52d-7d9c-ab34-2496c2cd394d', '01a21591-d248-7f3c-b264-e85ced818edb', '2026-11-26 01:56:48.557228+00'),
	(10, 'created', 'api_key', '01a21591-d563-7f01-aa8b-4c390d9a6b42', '01a21591-d248-7f3c-b264-e85ced818edb', '2026-11-26 01:56:48.611747+00'),
	(11, 'created', 'api_key', '01a21591-d5a4-746a-a196-5d57936891a0', '01a21591-d248-7f3c-b264-e85ced818edb', '2026-11-26 01:56:48.676188+00'),
	(12, 'created', 'api_key', '01a21591-d5db-7b4d-9165-2a282ec590df', '01a21591-d248-7f3c-b264-e85ced818edb', '2026-11-26 01:56:48.731826+00'),
	(13, 'created', 'api_key', '01a21591-d60d-7854-8345-bccb37f8728a', '01a21591-d248-7f3c-b264-e85ced818edb', '2026-11-26 01:56:48.781393+00'),
	(14, 'created', 'api_key', '01a21591-d63e-7089-a040-e3c081b3c1b1', '01a21591-d248-7f3c-b264-e85ced818edb', '2026-11-26 01:56:48.830211+00'),
	(15, 'created', 'api_key', '01a21591-d670-75d7-bab8-e586997112b0', '01a21591-d248-7f3c-b264-e85ced818edb', '2026-11-26 01:56:48.880974+00'),
	(16, 'created', 'api_key', '01a21591-d6c3-75f3-94ba-e246e6c22917', '01a21591-d248-7f3c-b264-e85ced818edb', '2026-11-26 01:56:48.963841+00'),
	(17, 'role_changed', 'user', '01a21591-d70a-7da9-bdee-d689cb13d367', '01a21591-d781-72d3-91d4-64e3319ae858', '2026-11-26 01:56:49.160596+00'),
	(18, 'role_changed', 'user', '01a21591-d772-79a7-b44c-8a7662429fc8', '01a21591-d781-72d3-91d4-64e3319ae858', '2026-11-26 01:56:49.16728+00'),
	(19, 'created', 'api_key', '01a21591-d79f-7492-b56f-0cc2a5123255', '01a21591-d781-72d3-91d4-64e3319ae858', '2026-11-26 01:56:49.183867+00'),
	(20, 'created', 'api_key', '01a21591-d7aa-72ee-a6e7-55ab62cf9a0f', '01a21591-d781-72d3-91d4-64e3319ae858', '2026-11-26 01:56:49.194091+00'),
	(21, 'created', 'api_key', '01a21591-d7b1-7911-bafc-6589d0146838', '01a21591-d781-72d3-91d4-64e3319ae858', '2026-11-26 01:56:49.201328+00'),
	(22, 'created', 'api_key', '01a21591-d7bd-7e4b-b261-175db0f1a2a0', '01a21591-d781-72d3-91d4-64e3319ae858', '2026-11-26 01:56:49.21365+00'),
	(23, 'created', 'api_key', '01a21591-d7c4-7a7f-8df5-60277a4dca44', '01a21591-d781-72d3-91d4-64e3319ae858', '2026-11-26 01:56:49.220357+00'),
	(24, 'created', 'api_key', '01a21591-d7d0-760c-8dbe-0cae4b624b3d', '01a21591-d781-72d3-91d4-64e3319ae858', '2026-11-26 01:56:49.232282+00'),
	(25, 'role_changed', 'user', '01a21591-d801-7bea-955a-e6a795908c11', '01a21591-d819-7f2b-9f47-663bd3ad93fd', '2026-11-26 01:56:49.316073+00'),
	(26, 'role_changed', 'user', '01a21591-d80e-745d-ac07-53d80081eca3', '01a21591-d819-7f2b-9f47-663bd3ad93fd', '2026-11-26 01:56:49.339635+00'),
	(27, 'created', 'api_key', '01a21591-d856-71dc-8060-a7bc2e280b7c', '01a21591-d819-7f2b-9f47-663bd3ad93fd', '2026-11-26 01:56:49.366919+00'),
	(28, 'created', 'api_key', '01a21591-d864-74d9-b712-3d470e9b7ed3', '01a21591-d819-7f2b-9f47-663bd3ad93fd', '2026-11-26 01:56:49.38035+00'),
	(29, 'created', 'api_key', '01a21591-d879-790b-8a70-72ab6866c4fc', '01a21591-d819-7f2b-9f47-663bd3ad93fd', '2026-11-26 01:56:49.401029+00'),
	(30, 'created', 'api_key', '01a21591-d890-7ded-8dec-38aa09a1c595', '01a21591-d819-7f2b-9f47-663bd3ad93fd', '2026-11-26 01:56:49.424247+00'),
	(31, 'created', 'api_key', '01a21591-d89f-79c5-b303-ff3af9ed6efb', '01a21591-d819-7f2b-9f47-663bd3ad93fd', '2026-11-26 01:56:49.439304+00'),
	(32, 'created', 'api_key', '01a21591-d8ae-7a93-980e-cc95332cf3ca', '01a21591-d819-7f2b-9f47-663bd3ad93fd', '2026-11-26 01:56:49.454751+00'),
	(33, 'role_changed', 'user', '01a21591-d8c7-7a34-aa7c-faf38b19d29b', '01a21591-d8d2-710a-bb84-b2e9d72a4108', '2026-11-26 01:56:49.498924+00'),
	(34, 'created', 'api_key', '01a21591-d8f1-7381-94a1-b717452e8ba4', '01a21591-d8d2-710a-bb84-b2e9d72a4108', '2026-11-26 01:56:49.521154+00'),
	(35, 'created', 'api_key', '01a21591-d908-7332-8c3b-90d60c5d321d', '01a21591-d8d2-710a-bb84-b2e9d72a4108', '2026-11-26 01:56:49.54448+00'),
	(36, 'created', 'api_key', '01a21591-d941-79e0-87b0-0503f7bd6baa', '01a21591-d92d-7608-b484-8558c02f4cd8', '2026-11-26 01:56:49.601751+00');
INSERT INTO identity.members VALUES
	('01a21591-d11e-7afc-9ea2-bf72cfad255f', '01a21591-d118-75d2-86af-2f09e989170a', 'owner', '2026-11-26 01:56:47.512184+00', '2026-11-26 01:56:47.512184+00', 1),
	('01a21591-d215-76e6-b100-97ca42b1b434', '01a21591-d213-7560-a1e5-06a31945dc79', 'owner', '2026-11-26 01:56:47.763175+00', '2026-11-26 01:56:47.763175+00', 1),
	('01a21591-d224-775b-85aa-042038161cb5', '01a21591-d222-7eb2-9ee1-3477e3460383', 'owner', '2026-11-26 01:56:47.778568+00', '2026-11-26 01:56:47.778568+00', 1),
	('01a21591-d231-7cb5-b271-1ebc94bdd3ed', '01a21591-d22f-770b-b594-fdd45ba480e3', 'owner', '2026-11-26 01:56:47.791838+00', '2026-11-26 01:56:47.791838+00', 1),
	('01a21591-d248-7f3c-b264-e85ced818edb', '01a21591-d118-75d2-86af-2f09e989170a', 'owner', '2026-11-26 01:56:47.816671+00', '2026-11-26 01:56:47.816671+00', 1),
	('01a21591-d248-7f3c-b264-e85ced818edb', '01a21591-d213-7560-a1e5-06a31945dc79', 'member', '2026-11-26 01:56:47.844039+00', '2026-11-26 01:56:47.844039+00', 1),
	('01a21591-d248-7f3c-b264-e85ced818edb', '01a21591-d222-7eb2-9ee1-3477e3460383', 'member', '2026-11-26 01:56:47.869086+00', '2026-11-26 01:56:47.869086+00', 1),
	('01a21591-d248-7f3c-b264-e85ced818edb', '01a21591-d22f-770b-b594-fdd45ba480e3', 'member', '2026-11-26 01:56:48.011254+00', '2026-11-26 01:56:48.011254+00', 1),
	('01a21591-d6ea-7036-bfd7-110be3da098c', '01a21591-d6e7-7984-bcf7-f477afc4fdc2', 'owner', '2026-11-26 01:56:48.999373+00', '2026-11-26 01:56:48.999373+00', 1),
	('01a21591-d713-7036-86ee-0afe3f15bf91', '01a21591-d70a-7da9-bdee-d689cb13d367', 'owner', '2026-11-26 01:56:49.034757+00', '2026-11-26 01:56:49.034757+00', 1),
	('01a21591-d776-719d-96d5-8a04577d6664', '01a21591-d772-79a7-b44c-8a7662429fc8', 'owner', '2026-11-26 01:56:49.138856+00', '2026-11-26 01:56:49.138856+00', 1),
	('01a21591-d781-72d3-91d4-64e3319ae858', '01a21591-d6e7-7984-bcf7-f477afc4fdc2', 'owner', '2026-11-26 01:56:49.153315+00', '2026-11-26 01:56:49.153315+00', 1),
	('01a21591-d781-72d3-91d4-64e3319ae858', '01a21591-d70a-7da9-bdee-d689cb13d367', 'member', '2026-11-26 01:56:49.160596+00', '2026-11-26 01:56:49.160596+00', 1),
	('01a21591-d781-72d3-91d4-64e3319ae858', '01a21591-d772-79a7-b44c-8a7662429fc8', 'member', '2026-11-26 01:56:49.16728+00', '2026-11-26 01:56:49.16728+00', 1),
	('01a21591-d7f7-742e-904f-726dd397c9b1', '01a21591-d7f6-7e61-9dc3-1d2345b1f59a', 'owner', '2026-11-26 01:56:49.270092+00', '2026-11-26 01:56:49.270092+00', 1),
	('01a21591-d802-711d-bb49-50e2cc1e2545', '01a21591-d801-7bea-955a-e6a795908c11', 'owner', '2026-11-26 01:56:49.28151+00', '2026-11-26 01:56:49.28151+00', 1),
	('01a21591-d80e-75f0-8307-ae1009d81d80', '01a21591-d80e-745d-ac07-53d80081eca3', 'owner', '2026-11-26 01:56:49.294013+00', '2026-11-26 01:56:49.294013+00', 1),
	('01a21591-d819-7f2b-9f47-663bd3ad93fd', '01a21591-d7f6-7e61-9dc3-1d2345b1f59a', 'owner', '2026-11-26 01:56:49.305851+00', '2026-11-26 01:56:49.305851+00', 1),
	('01a21591-d819-7f2b-9f47-663bd3ad93fd', '01a21591-d801-7bea-955a-e6a795908c11', 'member', '2026-11-26 01:56:49.316073+00', '2026-11-26 01:56:49.316073+00', 1),
	('01a21591-d819-7f2b-9f47-663bd3ad93fd', '01a21591-d80e-745d-ac07-53d80081eca3', 'member', '2026-11-26 01:56:49.339635+00', '2026-11-26 01:56:49.339635+00', 1),
	('01a21591-d8c1-760f-a0a5-b4e5b8837eca', '01a21591-d8bd-73d6-9922-8f23502c6287', 'owner', '2026-11-26 01:56:49.469985+00', '2026-11-26 01:56:49.469985+00', 1),
	('01a21591-d8c8-7cd4-a827-46863d13c7cc', '01a21591-d8c7-7a34-aa7c-faf38b19d29b', 'owner', '2026-11-26 01:56:49.479682+00', '2026-11-26 01:56:49.479682+00', 1),
	('01a21591-d8d2-710a-bb84-b2e9d72a4108', '01a21591-d8bd-73d6-9922-8f23502c6287', 'owner', '2026-11-26 01:56:49.490097+00', '2026-11-26 01:56:49.490097+00', 1),
	('01a21591-d8d2-710a-bb84-b2e9d72a4108', '01a21591-d8c7-7a34-aa7c-faf38b19d29b', 'member', '2026-11-26 01:56:49.498924+00', '2026-11-26 01:56:49.498924+00', 1),
	('01a21591-d927-7ae8-9f13-eb7cbf8706be', '01a21591-d923-7fb8-9aac-3d6bce21fb2c', 'owner', '2026-11-26 01:56:49.571798+00', '2026-11-26 01:56:49.571798+00', 1),
	('01a21591-d92d-7608-b484-8558c02f4cd8', '01a21591-d923-7fb8-9aac-3d6bce21fb2c', 'owner', '2026-11-26 01:56:49.581582+00', '2026-11-26 01:56:49.581582+00', 1),
	('01a21591-dc25-700c-b2c7-9d0260f62b2d', '01a21591-dc25-738b-99e8-3725dd6a5f74', 'owner', '2026-11-26 01:56:50.34168+00', '2026-11-26 01:56:50.34168+00', 1),
	('01a21591-dc2c-769a-824b-3114acd37b48', '01a21591-dc25-738b-99e8-3725dd6a5f74', 'owner', '2026-11-26 01:56:50.348168+00', '2026-11-26 01:56:50.348168+00', 1),
	('01a21591-dc31-7f7f-a400-9da373865ce3', '01a21591-dc31-7e53-9555-5a3c26d1db1e', 'owner', '2026-11-26 01:56:50.35315+00', '2026-11-26 01:56:50.35315+00', 1),
	('01a21591-dc36-70e6-b96b-67e2f6bfa593', '01a21591-dc31-7e53-9555-5a3c26d1db1e', 'owner', '2026-11-26 01:56:50.358828+00', '2026-11-26 01:56:50.358828+00', 1),
	('01a21591-dc3a-71c4-b5eb-00305fcc2367', '01a21591-dc39-7c32-bcc6-3877f260e5bc', 'owner', '2026-11-26 01:56:50.361949+00', '2026-11-26 01:56:50.361949+00', 1),
	('01a21591-dc3d-7a32-960b-c28a8913c46a', '01a21591-dc39-7c32-bcc6-3877f260e5bc', 'owner', '2026-11-26 01:56:50.365343+00', '2026-11-26 01:56:50.365343+00', 1);
INSERT INTO identity.organizations VALUES
	('01a21591-d11e-7afc-9ea2-bf72cfad255f', 'User 1 of Northwind Research', '2026-11-26 01:56:47.512184+00', '2026-11-26 01:56:47.512184+00', NULL, 1, true, NULL, '{}', ''),
	('01a21591-d215-76e6-b100-97ca42b1b434', 'User 2 of Northwind Research', '2026-11-26 01:56:47.763175+00', '2026-11-26 01:56:47.763175+00', NULL, 1, true, NULL, '{}', ''),
	('01a21591-d224-775b-85aa-042038161cb5', 'User 3 of Northwind Research', '2026-11-26 01:56:47.778568+00', '2026-11-26 01:56:47.778568+00', NULL, 1, true, NULL, '{}', ''),
	('01a21591-d231-7cb5-b271-1ebc94bdd3ed', 'User 4 of Northwind Research', '2026-11-26 01:56:47.791838+00', '2026-11-26 01:56:47.791838+00', NULL, 1, true, NULL, '{}', ''),
	('01a21591-d248-7f3c-b264-e85ced818edb', 'Northwind Research', '2026-11-26 01:56:47.816671+00', '2026-11-26 01:56:47.816671+00', NULL, 1, false, NULL, '{}', ''),
	('01a21591-d6ea-7036-bfd7-110be3da098c', 'User 1 of Blue Harbor Logistics', '2026-11-26 01:56:48.999373+00', '2026-11-26 01:56:48.999373+00', NULL, 1, true, NULL, '{}', ''),
	('01a21591-d713-7036-86ee-0afe3f15bf91', 'User 2 of Blue Harbor Logistics', '2026-11-26 01:56:49.034757+00', '2026-11-26 01:56:49.034757+00', NULL, 1, true, NULL, '{}', ''),
	('01a21591-d776-719d-96d5-8a04577d6664', 'User 3 of Blue Harbor Logistics', '2026-11-26 01:56:49.138856+00', '2026-11-26 01:56:49.138856+00', NULL, 1, true, NULL, '{}', ''),
	('01a21591-d781-72d3-91d4-64e3319ae858', 'Blue Harbor Logistics', '2026-11-26 01:56:49.153315+00', '2026-11-26 01:56:49.153315+00', NULL, 1, false, NULL, '{}', ''),
	('01a21591-d7f7-742e-904f-726dd397c9b1', 'User 1 of Cedar & Pine Clinics', '2026-11-26 01:56:49.270092+00', '2026-11-26 01:56:49.270092+00', NULL, 1, true, NULL, '{}', ''),
	('01a21591-d802-711d-bb49-50e2cc1e2545', 'User 2 of Cedar & Pine Clinics', '2026-11-26 01:56:49.28151+00', '2026-11-26 01:56:49.28151+00', NULL, 1, true, NULL, '{}', ''),
	('01a21591-d80e-75f0-8307-ae1009d81d80', 'User 3 of Cedar & Pine Clinics', '2026-11-26 01:56:49.294013+00', '2026-11-26 01:56:49.294013+00', NULL, 1, true, NULL, '{}', ''),
	('01a21591-d819-7f2b-9f47-663bd3ad93fd', 'Cedar & Pine Clinics', '2026-11-26 01:56:49.305851+00', '2026-11-26 01:56:49.305851+00', NULL, 1, false, NULL, '{}', ''),
	('01a21591-d8c1-760f-a0a5-b4e5b8837eca', 'User 1 of Quarry Street Games', '2026-11-26 01:56:49.469985+00', '2026-11-26 01:56:49.469985+00', NULL, 1, true, NULL, '{}', ''),
	('01a21591-d8c8-7cd4-a827-46863d13c7cc', 'User 2 of Quarry Street Games', '2026-11-26 01:56:49.479682+00', '2026-11-26 01:56:49.479682+00', NULL, 1, true, NULL, '{}', ''),
	('01a21591-d8d2-710a-bb84-b2e9d72a4108', 'Quarry Street Games', '2026-11-26 01:56:49.490097+00', '2026-11-26 01:56:49.490097+00', NULL, 1, false, NULL, '{}', ''),
	('01a21591-d927-7ae8-9f13-eb7cbf8706be', 'User 1 of Marta Oduya', '2026-11-26 01:56:49.571798+00', '2026-11-26 01:56:49.571798+00', NULL, 1, true, NULL, '{}', ''),
	('01a21591-d92d-7608-b484-8558c02f4cd8', 'Marta Oduya', '2026-11-26 01:56:49.581582+00', '2026-11-26 01:56:49.581582+00', NULL, 1, false, NULL, '{}', ''),
	('01a21591-dc25-700c-b2c7-9d0260f62b2d', 'acme', '2026-11-26 01:56:50.34168+00', '2026-11-26 01:56:50.34168+00', NULL, 1, true, NULL, '{}', ''),
	('01a21591-dc2c-769a-824b-3114acd37b48', 'Acme', '2026-11-26 01:56:50.348168+00', '2026-11-26 01:56:50.348168+00', NULL, 1, false, NULL, '{}', ''),
	('01a21591-dc31-7f7f-a400-9da373865ce3', 'euro', '2026-11-26 01:56:50.35315+00', '2026-11-26 01:56:50.35315+00', NULL, 1, true, NULL, '{}', ''),
	('01a21591-dc36-70e6-b96b-67e2f6bfa593', 'Euro', '2026-11-26 01:56:50.358828+00', '2026-11-26 01:56:50.358828+00', NULL, 1, false, NULL, '{}', ''),
	('01a21591-dc3a-71c4-b5eb-00305fcc2367', 'poor', '2026-11-26 01:56:50.361949+00', '2026-11-26 01:56:50.361949+00', NULL, 1, true, NULL, '{}', ''),
	('01a21591-dc3d-7a32-960b-c28a8913c46a', 'Poor', '2026-11-26 01:56:50.365343+00', '2026-11-26 01:56:50.365343+00', NULL, 1, false, NULL, '{}', '');
INSERT INTO identity.projects VALUES
	('01a21591-d248-7f3c-b264-e85ced818edb', '01a21591-d33a-7e73-b818-ce3e7ad7d2a5', 'assistant', 'assistant', '', '2026-11-26 01:56:48.058237+00', '2026-11-26 01:56:48.058237+00', NULL, 1, '{}', ''),
	('01a21591-d248-7f3c-b264-e85ced818edb', '01a21591-d3bf-7946-a686-4a4c64f29467', 'search', 'search', '', '2026-11-26 01:56:48.191852+00', '2026-11-26 01:56:48.191852+00', NULL, 1, '{}', ''),
	('01a21591-d248-7f3c-b264-e85ced818edb', '01a21591-d3de-796a-8c93-62b403054b94', 'evaluation', 'evaluation', '', '2026-11-26 01:56:48.222747+00', '2026-11-26 01:56:48.222747+00', NULL, 1, '{}', ''),
	('01a21591-d781-72d3-91d4-64e3319ae858', '01a21591-d797-7585-a0ba-1fe5092330d0', 'dispatch', 'dispatch', '', '2026-11-26 01:56:49.175109+00', '2026-11-26 01:56:49.175109+00', NULL, 1, '{}', ''),
	('01a21591-d781-72d3-91d4-64e3319ae858', '01a21591-d79b-779d-8de9-8cf22b7a54f0', 'support', 'support', '', '2026-11-26 01:56:49.179762+00', '2026-11-26 01:56:49.179762+00', NULL, 1, '{}', ''),
	('01a21591-d819-7f2b-9f47-663bd3ad93fd', '01a21591-d846-79e8-a575-b04a50e9ece2', 'triage', 'triage', '', '2026-11-26 01:56:49.35023+00', '2026-11-26 01:56:49.35023+00', NULL, 1, '{}', ''),
	('01a21591-d819-7f2b-9f47-663bd3ad93fd', '01a21591-d84e-73e7-a0ff-1c06fb119e8a', 'letters', 'letters', '', '2026-11-26 01:56:49.358964+00', '2026-11-26 01:56:49.358964+00', NULL, 1, '{}', ''),
	('01a21591-d8d2-710a-bb84-b2e9d72a4108', '01a21591-d8e8-7baf-8ead-29760acfc68c', 'characters', 'characters', '', '2026-11-26 01:56:49.512234+00', '2026-11-26 01:56:49.512234+00', NULL, 1, '{}', ''),
	('01a21591-d92d-7608-b484-8558c02f4cd8', '01a21591-d939-72c4-b21e-4c7e3f1b8304', 'thesis', 'thesis', '', '2026-11-26 01:56:49.593186+00', '2026-11-26 01:56:49.593186+00', NULL, 1, '{}', '');
INSERT INTO identity.requests VALUES
	('00000000-0000-0000-0000-000000000000', 'CreateUser', 'tollhouse-replay:northwind:user-1', '{"email": "211e20c9f55446693a4a4827bd77e6bb", "username": "12ae32cb1ec02d01eda3581b127c1fee", "full_name": "24eecf4a0027bdd589b86ceae3f49d4e", "picture_url": "12ae32cb1ec02d01eda3581b127c1fee"}', '01a21591-d118-75d2-86af-2f09e989170a', '2026-11-26 01:56:47.512184+00'),
	('00000000-0000-0000-0000-000000000000', 'CreateUser', 'tollhouse-replay:northwind:user-2', '{"email": "2cff82de6c56b78b4cd87bf4f621e316", "username": "12ae32cb1ec02d01eda3581b127c1fee", "full_name": "80809694e0275a28abd88ac55de5505e", "picture_url": "12ae32cb1ec02d01eda3581b127c1fee"}', '01a21591-d213-7560-a1e5-06a31945dc79', '2026-11-26 01:56:47.763175+00'),
	('00000000-0000-0000-0000-000000000000', 'CreateUser', 'tollhouse-replay:northwind:user-3', '{"email": "077b407e5bf63995c18e4ff1803c2d04", "username": "12ae32cb1ec02d01eda3581b127c1fee", "full_name": "7c268f6bf618e5fd35b6b94f83148c6a", "picture_url": "12ae32cb1ec02d01eda3581b127c1fee"}', '01a21591-d222-7eb2-9ee1-3477e3460383', '2026-11-26 01:56:47.778568+00'),
	('00000000-0000-0000-0000-000000000000', 'CreateUser', 'tollhouse-replay:northwind:user-4', '{"email": "f67d0438bc7b62ffb169dad4549fdd2f", "username": "12ae32cb1ec02d01eda3581b127c1fee", "full_name": "a9505dbed7cbfc94ecb8db497b91d8c6", "picture_url": "12ae32cb1ec02d01eda3581b127c1fee"}', '01a21591-d22f-770b-b594-fdd45ba480e3', '2026-11-26 01:56:47.791838+00'),
	('00000000-0000-0000-0000-000000000000', 'CreateOrganization', 'tollhouse-replay:northwind', '{"name": "7466fd601a6f20ca5bb1a9608b526980", "owner_user_id": "ae10cfaf5a942c68fa02e635536bdd43"}', '01a21591-d248-7f3c-b264-e85ced818edb', '2026-11-26 01:56:47.816671+00'),
	('01a21591-d248-7f3c-b264-e85ced818edb', 'AddMember', 'tollhouse-replay:northwind:01a21591-d213-7560-a1e5-06a31945dc79', '{"role": "68884b2d004b2e093caf976b47c84ff3", "user_id": "b73e103ebc678c207c200792624424fb"}', '01a21591-d213-7560-a1e5-06a31945dc79', '2026-11-26 01:56:47.844039+00'),
	('01a21591-d248-7f3c-b264-e85ced818edb', 'AddMember', 'tollhouse-replay:northwind:01a21591-d222-7eb2-9ee1-3477e3460383', '{"role": "68884b2d004b2e093caf976b47c84ff3", "user_id": "6e08ab7cf865e74d09f297e92ccc534e"}', '01a21591-d222-7eb2-9ee1-3477e3460383', '2026-11-26 01:56:47.869086+00'),
	('01a21591-d248-7f3c-b264-e85ced818edb', 'AddMember', 'tollhouse-replay:northwind:01a21591-d22f-770b-b594-fdd45ba480e3', '{"role": "68884b2d004b2e093caf976b47c84ff3", "user_id": "733f8c8643000bd225e7d378e0a7805a"}', '01a21591-d22f-770b-b594-fdd45ba480e3', '2026-11-26 01:56:48.011254+00'),
	('01a21591-d248-7f3c-b264-e85ced818edb', 'CreateProject', 'tollhouse-replay:northwind:assistant', '{"name": "43f3a43f5a7fef31effcd812e256c8f2", "description": "12ae32cb1ec02d01eda3581b127c1fee"}', '01a21591-d33a-7e73-b818-ce3e7ad7d2a5', '2026-11-26 01:56:48.058237+00'),
	('01a21591-d248-7f3c-b264-e85ced818edb', 'CreateProject', 'tollhouse-replay:northwind:search', '{"name": "6ad21f9d2ea182f9fe66f7791944c3bf", "description": "12ae32cb1ec02d01eda3581b127c1fee"}', '01a21591-d3bf-7946-a686-4a4c64f29467', '2026-11-26 01:56:48.191852+00'),
	('01a21591-d248-7f3c-b264-e85ced818edb', 'CreateProject', 'tollhouse-replay:northwind:evaluation', '{"name": "825cff9607c815f556865135b4bd3549", "description": "12ae32cb1ec02d01eda3581b127c1fee"}', '01a21591-d3de-796a-8c93-62b403054b94', '2026-11-26 01:56:48.222747+00'),
	('01a21591-d248-7f3c-b264-e85ced818edb', 'CreateApiKey', 'tollhouse-replay:northwind:01a21591-d33a-7e73-b818-ce3e7ad7d2a5:01a21591-d118-75d2-86af-2f09e989170a', '{"name": "2aa310588c26f507b89c938ebd02d51a", "scopes": "4f53cda18c2baa0c0354bb5f9a3ecbe5", "user_id": "ae10cfaf5a942c68fa02e635536bdd43", "metadata": "44136fa355b3678a1146ad16f7e8649e", "project_id": "f1475231816f0ea84ea2d8765f4203d0", "environment": "4d967a30111bf29f0eba01c448b375c1", "expire_time": "74234e98afe7498fb5daf1f36ac2d78a", "external_id": "12ae32cb1ec02d01eda3581b127c1fee", "allowed_models": "ecdc545125bbb52b68ef8a4cebccada4"}', '01a21591-d40f-7e0b-90ec-8cd6702e09f8', '2026-11-26 01:56:48.271416+00'),
	('01a21591-d248-7f3c-b264-e85ced818edb', 'CreateApiKey', 'tollhouse-replay:northwind:01a21591-d33a-7e73-b818-ce3e7ad7d2a5:01a21591-d213-7560-a1e5-06a31945dc79', '{"name": "2aa310588c26f507b89c938ebd02d51a", "scopes": "4f53cda18c2baa0c0354bb5f9a3ecbe5", "user_id": "b73e103ebc678c207c200792624424fb", "metadata": "44136fa355b3678a1146ad16f7e8649e", "project_id": "f1475231816f0ea84ea2d8765f4203d0", "environment": "4d967a30111bf29f0eba01c448b375c1", "expire_time": "74234e98afe7498fb5daf1f36ac2d78a", "external_id": "12ae32cb1ec02d01eda3581b127c1fee", "allowed_models": "ecdc545125bbb52b68ef8a4cebccada4"}', '01a21591-d487-7bcd-868b-e7fef7496f28', '2026-11-26 01:56:48.391782+00'),
	('01a21591-d248-7f3c-b264-e85ced818edb', 'CreateApiKey', 'tollhouse-replay:northwind:01a21591-d33a-7e73-b818-ce3e7ad7d2a5:01a21591-d222-7eb2-9ee1-3477e3460383', '{"name": "2aa310588c26f507b89c938ebd02d51a", "scopes": "4f53cda18c2baa0c0354bb5f9a3ecbe5", "user_id": "6e08ab7cf865e74d09f297e92ccc534e", "metadata": "44136fa355b3678a1146ad16f7e8649e", "project_id": "f1475231816f0ea84ea2d8765f4203d0", "environment": "4d967a30111bf29f0eba01c448b375c1", "expire_time": "74234e98afe7498fb5daf1f36ac2d78a", "external_id": "12ae32cb1ec02d01eda3581b127c1fee", "allowed_models": "ecdc545125bbb52b68ef8a4cebccada4"}', '01a21591-d4c3-7601-80e7-67a87d2f6726', '2026-11-26 01:56:48.451362+00'),
	('01a21591-d248-7f3c-b264-e85ced818edb', 'CreateApiKey', 'tollhouse-replay:northwind:01a21591-d33a-7e73-b818-ce3e7ad7d2a5:01a21591-d22f-770b-b594-fdd45ba480e3', '{"name": "2aa310588c26f507b89c938ebd02d51a", "scopes": "4f53cda18c2baa0c0354bb5f9a3ecbe5", "user_id": "733f8c8643000bd225e7d378e0a7805a", "metadata": "44136fa355b3678a1146ad16f7e8649e", "project_id": "f1475231816f0ea84ea2d8765f4203d0", "environment": "4d967a30111bf29f0eba01c448b375c1", "expire_time": "74234e98afe7498fb5daf1f36ac2d78a", "external_id": "12ae32cb1ec02d01eda3581b127c1fee", "allowed_models": "ecdc545125bbb52b68ef8a4cebccada4"}', '01a21591-d4f6-7753-85b7-93dfeac2731a', '2026-11-26 01:56:48.502098+00'),
	('01a21591-d248-7f3c-b264-e85ced818edb', 'CreateApiKey', 'tollhouse-replay:northwind:01a21591-d3bf-7946-a686-4a4c64f29467:01a21591-d118-75d2-86af-2f09e989170a', '{"name": "2aa310588c26f507b89c938ebd02d51a", "scopes": "4f53cda18c2baa0c0354bb5f9a3ecbe5", "user_id": "ae10cfaf5a942c68fa02e635536bdd43", "metadata": "44136fa355b3678a1146ad16f7e8649e", "project_id": "9c1b5a926e6e56deaaef4e161c880879", "environment": "4d967a30111bf29f0eba01c448b375c1", "expire_time": "74234e98afe7498fb5daf1f36ac2d78a", "external_id": "12ae32cb1ec02d01eda3581b127c1fee", "allowed_models": "ecdc545125bbb52b68ef8a4cebccada4"}', '01a21591-d52d-7d9c-ab34-2496c2cd394d', '2026-11-26 01:56:48.557228+00'),
	('01a21591-d248-7f3c-b264-e85ced818edb', 'CreateApiKey', 'tollhouse-replay:northwind:01a21591-d3bf-7946-a686-4a4c64f29467:01a21591-d213-7560-a1e5-06a31945dc79', '{"name": "2aa310588c26f507b89c938ebd02d51a", "scopes": "4f53cda18c2baa0c0354bb5f9a3ecbe5", "user_id": "b73e103ebc678c207c200792624424fb", "metadata": "44136fa355b3678a1146ad16f7e8649e", "project_id": "9c1b5a926e6e56deaaef4e161c880879", "environment": "4d967a30111bf29f0eba01c448b375c1", "expire_time": "74234e98afe7498fb5daf1f36ac2d78a", "external_id": "12ae32cb1ec02d01eda3581b127c1fee", "allowed_models": "ecdc545125bbb52b68ef8a4cebccada4"}', '01a21591-d563-7f01-aa8b-4c390d9a6b42', '2026-11-26 01:56:48.611747+00'),
	('01a21591-d248-7f3c-b264-e85ced818edb', 'CreateApiKey', 'tollhouse-replay:northwind:01a21591-d3bf-7946-a686-4a4c64f29467:01a21591-d222-7eb2-9ee1-3477e3460383', '{"name": "2aa310588c26f507b89c938ebd02d51a", "scopes": "4f53cda18c2baa0c0354bb5f9a3ecbe5", "user_id": "6e08ab7cf865e74d09f297e92ccc534e", "metadata": "44136fa355b3678a1146ad16f7e8649e", "project_id": "9c1b5a926e6e56deaaef4e161c880879", "environment": "4d967a30111bf29f0eba01c448b375c1", "expire_time": "74234e98afe7498fb5daf1f36ac2d78a", "external_id": "12ae32cb1ec02d01eda3581b127c1fee", "allowed_models": "ecdc545125bbb52b68ef8a4cebccada4"}', '01a21591-d5a4-746a-a196-5d57936891a0', '2026-11-26 01:56:48.676188+00'),
	('01a21591-d248-7f3c-b264-e85ced818edb', 'CreateApiKey', 'tollhouse-replay:northwind:01a21591-d3bf-7946-a686-4a4c64f29467:01a21591-d22f-770b-b594-fdd45ba480e3', '{"name": "2aa310588c26f507b89c938ebd02d51a", "scopes": "4f53cda18c2baa0c0354bb5f9a3ecbe5", "user_id": "733f8c8643000bd225e7d378e0a7805a", "metadata": "44136fa355b3678a1146ad16f7e8649e", "project_id": "9c1b5a926e6e56deaaef4e161c880879", "environment": "4d967a30111bf29f0eba01c448b375c1", "expire_time": "74234e98afe7498fb5daf1f36ac2d78a", "external_id": "12ae32cb1ec02d01eda3581b127c1fee", "allowed_models": "ecdc545125bbb52b68ef8a4cebccada4"}', '01a21591-d5db-7b4d-9165-2a282ec590df', '2026-11-26 01:56:48.731826+00'),
	('01a21591-d248-7f3c-b264-e85ced818edb', 'CreateApiKey', 'tollhouse-replay:northwind:01a21591-d3de-796a-8c93-62b403054b94:01a21591-d118-75d2-86af-2f09e989170a', '{"name": "2aa310588c26f507b89c938ebd02d51a", "scopes": "4f53cda18c2baa0c0354bb5f9a3ecbe5", "user_id": "ae10cfaf5a942c68fa02e635536bdd43", "metadata": "44136fa355b3678a1146ad16f7e8649e", "project_id": "900ade60411260e4c0db60af934cfc88", "environment": "4d967a30111bf29f0eba01c448b375c1", "expire_time": "74234e98afe7498fb5daf1f36ac2d78a", "external_id": "12ae32cb1ec02d01eda3581b127c1fee", "allowed_models": "ecdc545125bbb52b68ef8a4cebccada4"}', '01a21591-d60d-7854-8345-bccb37f8728a', '2026-11-26 01:56:48.781393+00'),
	('01a21591-d248-7f3c-b264-e85ced818edb', 'CreateApiKey', 'tollhouse-replay:northwind:01a21591-d3de-796a-8c93-62b403054b94:01a21591-d213-7560-a1e5-06a31945dc79', '{"name": "2aa310588c26f507b89c938ebd02d51a", "scopes": "4f53cda18c2baa0c0354bb5f9a3ecbe5", "user_id": "b73e103ebc678c207c200792624424fb", "metadata": "44136fa355b3678a1146ad16f7e8649e", "project_id": "900ade60411260e4c0db60af934cfc88", "environment": "4d967a30111bf29f0eba01c448b375c1", "expire_time": "74234e98afe7498fb5daf1f36ac2d78a", "external_id": "12ae32cb1ec02d01eda3581b127c1fee", "allowed_models": "ecdc545125bbb52b68ef8a4cebccada4"}', '01a21591-d63e-7089-a040-e3c081b3c1b1', '2026-11-26 01:56:48.830211+00'),
	('01a21591-d248-7f3c-b264-e85ced818edb', 'CreateApiKey', 'tollhouse-replay:northwind:01a21591-d3de-796a-8c93-62b403054b94:01a21591-d222-7eb2-9ee1-3477e3460383', '{"name": "2aa310588c26f507b89c938ebd02d51a", "scopes": "4f53cda18c2baa0c0354bb5f9a3ecbe5", "user_id": "6e08ab7cf865e74d09f297e92ccc534e", "metadata": "44136fa355b3678a1146ad16f7e8649e", "project_id": "900ade60411260e4c0db60af934cfc88", "environment": "4d967a30111bf29f0eba01c448b375c1", "expire_time": "74234e98afe7498fb5daf1f36ac2d78a", "external_id": "12ae32cb1ec02d01eda3581b127c1fee", "allowed_models": "ecdc545125bbb52b68ef8a4cebccada4"}', '01a21591-d670-75d7-bab8-e586997112b0', '2026-11-26 01:56:48.880974+00'),
	('01a21591-d248-7f3c-b264-e85ced818edb', 'CreateApiKey', 'tollhouse-replay:northwind:01a21591-d3de-796a-8c93-62b403054b94:01a21591-d22f-770b-b594-fdd45ba480e3', '{"name": "2aa310588c26f507b89c938ebd02d51a", "scopes": "4f53cda18c2baa0c0354bb5f9a3ecbe5", "user_id": "733f8c8643000bd225e7d378e0a7805a", "metadata": "44136fa355b3678a1146ad16f7e8649e", "project_id": "900ade60411260e4c0db60af934cfc88", "environment": "4d967a30111bf29f0eba01c448b375c1", "expire_time": "74234e98afe7498fb5daf1f36ac2d78a", "external_id": "12ae32cb1ec02d01eda3581b127c1fee", "allowed_models": "ecdc545125bbb52b68ef8a4cebccada4"}', '01a21591-d6c3-75f3-94ba-e246e6c22917', '2026-11-26 01:56:48.963841+00'),
	('00000000-0000-0000-0000-000000000000', 'CreateUser', 'tollhouse-replay:blueharbor:user-1', '{"email": "5fc8d295b07a6ba38029a00ecc90d860", "username": "12ae32cb1ec02d01eda3581b127c1fee", "full_name": "fc4058395156fb710ba6e0350dcec439", "picture_url": "12ae32cb1ec02d01eda3581b127c1fee"}', '01a21591-d6e7-7984-bcf7-f477afc4fdc2', '2026-11-26 01:56:48.999373+00'),
	('00000000-0000-0000-0000-000000000000', 'CreateUser', 'tollhouse-replay:blueharbor:user-2', '{"email": "a95978570eb307f91ed50dd8c1525912", "username": "12ae32cb1ec02d01eda3581b127c1fee", "full_name": "1d43e43e6c70f4f67308b495bfe97dea", "picture_url": "12ae32cb1ec02d01eda3581b127c1fee"}', '01a21591-d70a-7da9-bdee-d689cb13d367', '2026-11-26 01:56:49.034757+00'),
	('00000000-0000-0000-0000-000000000000', 'CreateUser', 'tollhouse-replay:blueharbor:user-3', '{"email": "ba62437252d204ec076571245102f7cc", "username": "12ae32cb1ec02d01eda3581b127c1fee", "full_name": "bb66ab76510a1b53a49f0b0b7cbc2632", "picture_url": "12ae32cb1ec02d01eda3581b127c1fee"}', '01a21591-d772-79a7-b44c-8a7662429fc8', '2026-11-26 01:56:49.138856+00'),
	('00000000-0000-0000-0000-000000000000', 'CreateOrganization', 'tollhouse-replay:blueharbor', '{"name": "2a61c759481aab21e8cc6d9b4a495420", "owner_user_id": "9b429a4b356526434d050e0a80d115fc"}', '01a21591-d781-72d3-91d4-64e3319ae858', '2026-11-26 01:56:49.153315+00'),
	('01a21591-d781-72d3-91d4-64e3319ae858', 'AddMember', 'tollhouse-replay:blueharbor:01a21591-d70a-7da9-bdee-d689cb13d367', '{"role": "68884b2d004b2e093caf976b47c84ff3", "user_id": "d335ab7d870f51d5b401e7b47c1dd02c"}', '01a21591-d70a-7da9-bdee-d689cb13d367', '2026-11-26 01:56:49.160596+00'),
	('01a21591-d781-72d3-91d4-64e3319ae858', 'AddMember', 'tollhouse-replay:blueharbor:01a21591-d772-79a7-b44c-8a7662429fc8', '{"role": "68884b2d004b2e093caf976b47c84ff3", "user_id": "35cd98df9731063486d3d5e1e1868363"}', '01a21591-d772-79a7-b44c-8a7662429fc8', '2026-11-26 01:56:49.16728+00'),
	('01a21591-d781-72d3-91d4-64e3319ae858', 'CreateProject', 'tollhouse-replay:blueharbor:dispatch', '{"name": "8a0cbd636892b4abf8d87d3f2d0ff2a9", "description": "12ae32cb1ec02d01eda3581b127c1fee"}', '01a21591-d797-7585-a0ba-1fe5092330d0', '2026-11-26 01:56:49.175109+00'),
	('01a21591-d781-72d3-91d4-64e3319ae858', 'CreateProject', 'tollhouse-replay:blueharbor:support', '{"name": "aab3025a4508237ff636825ad0afbeec", "description": "12ae32cb1ec02d01eda3581b127c1fee"}', '01a21591-d79b-779d-8de9-8cf22b7a54f0', '2026-11-26 01:56:49.179762+00'),
	('01a21591-d781-72d3-91d4-64e3319ae858', 'CreateApiKey', 'tollhouse-replay:blueharbor:01a21591-d797-7585-a0ba-1fe5092330d0:01a21591-d6e7-7984-bcf7-f477afc4fdc2', '{"name": "2aa310588c26f507b89c938ebd02d51a", "scopes": "4f53cda18c2baa0c0354bb5f9a3ecbe5", "user_id": "9b429a4b356526434d050e0a80d115fc", "metadata": "44136fa355b3678a1146ad16f7e8649e", "project_id": "a6e3e71ee2885ef00055b60895f3fae6", "environment": "4d967a30111bf29f0eba01c448b375c1", "expire_time": "74234e98afe7498fb5daf1f36ac2d78a", "external_id": "12ae32cb1ec02d01eda3581b127c1fee", "allowed_models": "ecdc545125bbb52b68ef8a4cebccada4"}', '01a21591-d79f-7492-b56f-0cc2a5123255', '2026-11-26 01:56:49.183867+00'),
	('01a21591-d781-72d3-91d4-64e3319ae858', 'CreateApiKey', 'tollhouse-replay:blueharbor:01a21591-d797-7585-a0ba-1fe5092330d0:01a21591-d70a-7da9-bdee-d689cb13d367', '{"name": "2aa310588c26f507b89c938ebd02d51a", "scopes": "4f53cda18c2baa0c0354bb5f9a3ecbe5", "user_id": "d335ab7d870f51d5b401e7b47c1dd02c", "metadata": "44136fa355b3678a1146ad16f7e8649e", "project_id": "a6e3e71ee2885ef00055b60895f3fae6", "environment": "4d967a30111bf29f0eba01c448b375c1", "expire_time": "74234e98afe7498fb5daf1f36ac2d78a", "external_id": "12ae32cb1ec02d01eda3581b127c1fee", "allowed_models": "ecdc545125bbb52b68ef8a4cebccada4"}', '01a21591-d7aa-72ee-a6e7-55ab62cf9a0f', '2026-11-26 01:56:49.194091+00'),
	('01a21591-d781-72d3-91d4-64e3319ae858', 'CreateApiKey', 'tollhouse-replay:blueharbor:01a21591-d797-7585-a0ba-1fe5092330d0:01a21591-d772-79a7-b44c-8a7662429fc8', '{"name": "2aa310588c26f507b89c938ebd02d51a", "scopes": "4f53cda18c2baa0c0354bb5f9a3ecbe5", "user_id": "35cd98df9731063486d3d5e1e1868363", "metadata": "44136fa355b3678a1146ad16f7e8649e", "project_id": "a6e3e71ee2885ef00055b60895f3fae6", "environment": "4d967a30111bf29f0eba01c448b375c1", "expire_time": "74234e98afe7498fb5daf1f36ac2d78a", "external_id": "12ae32cb1ec02d01eda3581b127c1fee", "allowed_models": "ecdc545125bbb52b68ef8a4cebccada4"}', '01a21591-d7b1-7911-bafc-6589d0146838', '2026-11-26 01:56:49.201328+00'),
	('01a21591-d781-72d3-91d4-64e3319ae858', 'CreateApiKey', 'tollhouse-replay:blueharbor:01a21591-d79b-779d-8de9-8cf22b7a54f0:01a21591-d6e7-7984-bcf7-f477afc4fdc2', '{"name": "2aa310588c26f507b89c938ebd02d51a", "scopes": "4f53cda18c2baa0c0354bb5f9a3ecbe5", "user_id": "9b429a4b356526434d050e0a80d115fc", "metadata": "44136fa355b3678a1146ad16f7e8649e", "project_id": "b787acc68d4d9bde2eca697f32ffd1f2", "environment": "4d967a30111bf29f0eba01c448b375c1", "expire_time": "74234e98afe7498fb5daf1f36ac2d78a", "external_id": "12ae32cb1ec02d01eda3581b127c1fee", "allowed_models": "ecdc545125bbb52b68ef8a4cebccada4"}', '01a21591-d7bd-7e4b-b261-175db0f1a2a0', '2026-11-26 01:56:49.21365+00'),
	('01a21591-d781-72d3-91d4-64e3319ae858', 'CreateApiKey', 'tollhouse-replay:blueharbor:01a21591-d79b-779d-8de9-8cf22b7a54f0:01a21591-d70a-7da9-bdee-d689cb13d367', '{"name": "2aa310588c26f507b89c938ebd02d51a", "scopes": "4f53cda18c2baa0c0354bb5f9a3ecbe5", "user_id": "d335ab7d870f51d5b401e7b47c1dd02c", "metadata": "44136fa355b3678a1146ad16f7e8649e", "project_id": "b787acc68d4d9bde2eca697f32ffd1f2", "environment": "4d967a30111bf29f0eba01c448b375c1", "expire_time": "74234e98afe7498fb5daf1f36ac2d78a", "external_id": "12ae32cb1ec02d01eda3581b127c1fee", "allowed_models": "ecdc545125bbb52b68ef8a4cebccada4"}', '01a21591-d7c4-7a7f-8df5-60277a4dca44', '2026-11-26 01:56:49.220357+00'),
	('01a21591-d781-72d3-91d4-64e3319ae858', 'CreateApiKey', 'tollhouse-replay:blueharbor:01a21591-d79b-779d-8de9-8cf22b7a54f0:01a21591-d772-79a7-b44c-8a7662429fc8', '{"name": "2aa310588c26f507b89c938ebd02d51a", "scopes": "4f53cda18c2baa0c0354bb5f9a3ecbe5", "user_id": "35cd98df9731063486d3d5e1e1868363", "metadata": "44136fa355b3678a1146ad16f7e8649e", "project_id": "b787acc68d4d9bde2eca697f32ffd1f2", "environment": "4d967a30111bf29f0eba01c448b375c1", "expire_time": "74234e98afe7498fb5daf1f36ac2d78a", "external_id": "12ae32cb1ec02d01eda3581b127c1fee", "allowed_models": "ecdc545125bbb52b68ef8a4cebccada4"}', '01a21591-d7d0-760c-8dbe-0cae4b624b3d', '2026-11-26 01:56:49.232282+00'),
	('00000000-0000-0000-0000-000000000000', 'CreateUser', 'tollhouse-replay:cedarpine:user-1', '{"email": "f21457dd6114f14bc851368a0d1102df", "username": "12ae32cb1ec02d01eda3581b127c1fee", "full_name": "a3dc09a4bd548dfc3858054d177eb2a2", "picture_url": "12ae32cb1ec02d01eda3581b127c1fee"}', '01a21591-d7f6-7e61-9dc3-1d2345b1f59a', '2026-11-26 01:56:49.270092+00'),
	('00000000-0000-0000-0000-000000000000', 'CreateUser', 'tollhouse-replay:cedarpine:user-2', '{"email": "dd0bc6044d78b40ae20470ffaaa36ac4", "username": "12ae32cb1ec02d01eda3581b127c1fee", "full_name": "1307eea28c13c50107d46ebd28061c10", "picture_url": "12ae32cb1ec02d01eda3581b127c1fee"}', '01a21591-d801-7bea-955a-e6a795908c11', '2026-11-26 01:56:49.28151+00'),
	('00000000-0000-0000-0000-000000000000', 'CreateUser', 'tollhouse-replay:cedarpine:user-3', '{"email": "ae063d5702248734be7adc9192820c62", "username": "12ae32cb1ec02d01eda3581b127c1fee", "full_name": "04dc26a8c369dd36bbdf7bdbf3a8d2ed", "picture_url": "12ae32cb1ec02d01eda3581b127c1fee"}', '01a21591-d80e-745d-ac07-53d80081eca3', '2026-11-26 01:56:49.294013+00'),
	('00000000-0000-0000-0000-000000000000', 'CreateOrganization', 'tollhouse-replay:cedarpine', '{"name": "074cdc32de8c85c48dc50819b860ab73", "owner_user_id": "81e2dcfc70bf2fe49eda23cd3dbc6447"}', '01a21591-d819-7f2b-9f47-663bd3ad93fd', '2026-11-26 01:56:49.305851+00'),
	('01a21591-d819-7f2b-9f47-663bd3ad93fd', 'AddMember', 'tollhouse-replay:cedarpine:01a21591-d801-7bea-955a-e6a795908c11', '{"role": "68884b2d004b2e093caf976b47c84ff3", "user_id": "6e209601f3aba92806818e00f71327b5"}', '01a21591-d801-7bea-955a-e6a795908c11', '2026-11-26 01:56:49.316073+00'),
	('01a21591-d819-7f2b-9f47-663bd3ad93fd', 'AddMember', 'tollhouse-replay:cedarpine:01a21591-d80e-745d-ac07-53d80081eca3', '{"role": "68884b2d004b2e093caf976b47c84ff3", "user_id": "4c57df4e6aece48f0d19217aeff00327"}', '01a21591-d80e-745d-ac07-53d80081eca3', '2026-11-26 01:56:49.339635+00'),
	('01a21591-d819-7f2b-9f47-663bd3ad93fd', 'CreateProject', 'tollhouse-replay:cedarpine:triage', '{"name": "50b9032eef30a0987b097cb2d4c0b77c", "description": "12ae32cb1ec02d01eda3581b127c1fee"}', '01a21591-d846-79e8-a575-b04a50e9ece2', '2026-11-26 01:56:49.35023+00'),
	('01a21591-d819-7f2b-9f47-663bd3ad93fd', 'CreateProject', 'tollhouse-replay:cedarpine:letters', '{"name": "9a98b474814cd900803636f8f2aff448", "description": "12ae32cb1ec02d01eda3581b127c1fee"}', '01a21591-d84e-73e7-a0ff-1c06fb119e8a', '2026-11-26 01:56:49.358964+00'),
	('01a21591-d819-7f2b-9f47-663bd3ad93fd', 'CreateApiKey', 'tollhouse-replay:cedarpine:01a21591-d846-79e8-a575-b04a50e9ece2:01a21591-d7f6-7e61-9dc3-1d2345b1f59a', '{"name": "2aa310588c26f507b89c938ebd02d51a", "scopes": "4f53cda18c2baa0c0354bb5f9a3ecbe5", "user_id": "81e2dcfc70bf2fe49eda23cd3dbc6447", "metadata": "44136fa355b3678a1146ad16f7e8649e", "project_id": "4d7ab313c71a491e494d82379cdcff28", "environment": "4d967a30111bf29f0eba01c448b375c1", "expire_time": "74234e98afe7498fb5daf1f36ac2d78a", "external_id": "12ae32cb1ec02d01eda3581b127c1fee", "allowed_models": "ecdc545125bbb52b68ef8a4cebccada4"}', '01a21591-d856-71dc-8060-a7bc2e280b7c', '2026-11-26 01:56:49.366919+00'),
	('01a21591-d819-7f2b-9f47-663bd3ad93fd', 'CreateApiKey', 'tollhouse-replay:cedarpine:01a21591-d846-79e8-a575-b04a50e9ece2:01a21591-d801-7bea-955a-e6a795908c11', '{"name": "2aa310588c26f507b89c938ebd02d51a", "scopes": "4f53cda18c2baa0c0354bb5f9a3ecbe5", "user_id": "6e209601f3aba92806818e00f71327b5", "metadata": "44136fa355b3678a1146ad16f7e8649e", "project_id": "4d7ab313c71a491e494d82379cdcff28", "environment": "4d967a30111bf29f0eba01c448b375c1", "expire_time": "74234e98afe7498fb5daf1f36ac2d78a", "external_id": "12ae32cb1ec02d01eda3581b127c1fee", "allowed_models": "ecdc545125bbb52b68ef8a4cebccada4"}', '01a21591-d864-74d9-b712-3d470e9b7ed3', '2026-11-26 01:56:49.38035+00'),
	('01a21591-d819-7f2b-9f47-663bd3ad93fd', 'CreateApiKey', 'tollhouse-replay:cedarpine:01a21591-d846-79e8-a575-b04a50e9ece2:01a21591-d80e-745d-ac07-53d80081eca3', '{"name": "2aa310588c26f507b89c938ebd02d51a", "scopes": "4f53cda18c2baa0c0354bb5f9a3ecbe5", "user_id": "4c57df4e6aece48f0d19217aeff00327", "metadata": "44136fa355b3678a1146ad16f7e8649e", "project_id": "4d7ab313c71a491e494d82379cdcff28", "environment": "4d967a30111bf29f0eba01c448b375c1", "expire_time": "74234e98afe7498fb5daf1f36ac2d78a", "external_id": "12ae32cb1ec02d01eda3581b127c1fee", "allowed_models": "ecdc545125bbb52b68ef8a4cebccada4"}', '01a21591-d879-790b-8a70-72ab6866c4fc', '2026-11-26 01:56:49.401029+00'),
	('01a21591-d819-7f2b-9f47-663bd3ad93fd', 'CreateApiKey', 'tollhouse-replay:cedarpine:01a21591-d84e-73e7-a0ff-1c06fb119e8a:01a21591-d7f6-7e61-9dc3-1d2345b1f59a', '{"name": "2aa310588c26f507b89c938ebd02d51a", "scopes": "4f53cda18c2baa0c0354bb5f9a3ecbe5", "user_id": "81e2dcfc70bf2fe49eda23cd3dbc6447", "metadata": "44136fa355b3678a1146ad16f7e8649e", "project_id": "ef310ca0f2c91430757c9c5670b3073e", "environment": "4d967a30111bf29f0eba01c448b375c1", "expire_time": "74234e98afe7498fb5daf1f36ac2d78a", "external_id": "12ae32cb1ec02d01eda3581b127c1fee", "allowed_models": "ecdc545125bbb52b68ef8a4cebccada4"}', '01a21591-d890-7ded-8dec-38aa09a1c595', '2026-11-26 01:56:49.424247+00'),
	('01a21591-d819-7f2b-9f47-663bd3ad93fd', 'CreateApiKey', 'tollhouse-replay:cedarpine:01a21591-d84e-73e7-a0ff-1c06fb119e8a:01a21591-d801-7bea-955a-e6a795908c11', '{"name": "2aa310588c26f507b89c938ebd02d51a", "scopes": "4f53cda18c2baa0c0354bb5f9a3ecbe5", "user_id": "6e209601f3aba92806818e00f71327b5", "metadata": "44136fa355b3678a1146ad16f7e8649e", "project_id": "ef310ca0f2c91430757c9c5670b3073e", "environment": "4d967a30111bf29f0eba01c448b375c1", "expire_time": "74234e98afe7498fb5daf1f36ac2d78a", "external_id": "12ae32cb1ec02d01eda3581b127c1fee", "allowed_models": "ecdc545125bbb52b68ef8a4cebccada4"}', '01a21591-d89f-79c5-b303-ff3af9ed6efb', '2026-11-26 01:56:49.439304+00'),
	('01a21591-d819-7f2b-9f47-663bd3ad93fd', 'CreateApiKey', 'tollhouse-replay:cedarpine:01a21591-d84e-73e7-a0ff-1c06fb119e8a:01a21591-d80e-745d-ac07-53d80081eca3', '{"name": "2aa310588c26f507b89c938ebd02d51a", "scopes": "4f53cda18c2baa0c0354bb5f9a3ecbe5", "user_id": "4c57df4e6aece48f0d19217aeff00327", "metadata": "44136fa355b3678a1146ad16f7e8649e", "project_id": "ef310ca0f2c91430757c9c5670b3073e", "environment": "4d967a30111bf29f0eba01c448b375c1", "expire_time": "74234e98afe7498fb5daf1f36ac2d78a", "external_id": "12ae32cb1ec02d01eda3581b127c1fee", "allowed_models": "ecdc545125bbb52b68ef8a4cebccada4"}', '01a21591-d8ae-7a93-980e-cc95332cf3ca', '2026-11-26 01:56:49.454751+00'),
	('00000000-0000-0000-0000-000000000000', 'CreateUser', 'tollhouse-replay:quarrystreet:user-1', '{"email": "0f48556992e4cac74802f1c41f839443", "username": "12ae32cb1ec02d01eda3581b127c1fee", "full_name": "1c56196120fab32215cc70f736abd524", "picture_url": "12ae32cb1ec02d01eda3581b127c1fee"}', '01a21591-d8bd-73d6-9922-8f23502c6287', '2026-11-26 01:56:49.469985+00'),
	('00000000-0000-0000-0000-000000000000', 'CreateUser', 'tollhouse-replay:quarrystreet:user-2', '{"email": "6b87be40d19b5faae065d30771dc1f6a", "username": "12ae32cb1ec02d01eda3581b127c1fee", "full_name": "9acc58d7b048bec4f4ae4f4b8bd31dd4", "picture_url": "12ae32cb1ec02d01eda3581b127c1fee"}', '01a21591-d8c7-7a34-aa7c-faf38b19d29b', '2026-11-26 01:56:49.479682+00'),
	('00000000-0000-0000-0000-000000000000', 'CreateOrganization', 'tollhouse-replay:quarrystreet', '{"name": "6d0b2c000cf8132990c69c56b487e790", "owner_user_id": "d17e9a8d7ee8a3e338c93771ec8a85d7"}', '01a21591-d8d2-710a-bb84-b2e9d72a4108', '2026-11-26 01:56:49.490097+00'),
	('01a21591-d8d2-710a-bb84-b2e9d72a4108', 'AddMember', 'tollhouse-replay:quarrystreet:01a21591-d8c7-7a34-aa7c-faf38b19d29b', '{"role": "68884b2d004b2e093caf976b47c84ff3", "user_id": "33e1d9a55b96d16701563383f2a4d091"}', '01a21591-d8c7-7a34-aa7c-faf38b19d29b', '2026-11-26 01:56:49.498924+00'),
	('01a21591-d8d2-710a-bb84-b2e9d72a4108', 'CreateProject', 'tollhouse-replay:quarrystreet:characters', '{"name": "b3f59593978944eb92bbb768c2b13656", "description": "12ae32cb1ec02d01eda3581b127c1fee"}', '01a21591-d8e8-7baf-8ead-29760acfc68c', '2026-11-26 01:56:49.512234+00'),
	('01a21591-d8d2-710a-bb84-b2e9d72a4108', 'CreateApiKey', 'tollhouse-replay:quarrystreet:01a21591-d8e8-7baf-8ead-29760acfc68c:01a21591-d8bd-73d6-9922-8f23502c6287', '{"name": "2aa310588c26f507b89c938ebd02d51a", "scopes": "4f53cda18c2baa0c0354bb5f9a3ecbe5", "user_id": "d17e9a8d7ee8a3e338c93771ec8a85d7", "metadata": "44136fa355b3678a1146ad16f7e8649e", "project_id": "07a2f7164b55c53e4131d0ece558cff3", "environment": "4d967a30111bf29f0eba01c448b375c1", "expire_time": "74234e98afe7498fb5daf1f36ac2d78a", "external_id": "12ae32cb1ec02d01eda3581b127c1fee", "allowed_models": "ecdc545125bbb52b68ef8a4cebccada4"}', '01a21591-d8f1-7381-94a1-b717452e8ba4', '2026-11-26 01:56:49.521154+00'),
	('01a21591-d8d2-710a-bb84-b2e9d72a4108', 'CreateApiKey', 'tollhouse-replay:quarrystreet:01a21591-d8e8-7baf-8ead-29760acfc68c:01a21591-d8c7-7a34-aa7c-faf38b19d29b', '{"name": "2aa310588c26f507b89c938ebd02d51a", "scopes": "4f53cda18c2baa0c0354bb5f9a3ecbe5", "user_id": "33e1d9a55b96d16701563383f2a4d091", "metadata": "44136fa355b3678a1146ad16f7e8649e", "project_id": "07a2f7164b55c53e4131d0ece558cff3", "environment": "4d967a30111bf29f0eba01c448b375c1", "expire_time": "74234e98afe7498fb5daf1f36ac2d78a", "external_id": "12ae32cb1ec02d01eda3581b127c1fee", "allowed_models": "ecdc545125bbb52b68ef8a4cebccada4"}', '01a21591-d908-7332-8c3b-90d60c5d321d', '2026-11-26 01:56:49.54448+00'),
	('00000000-0000-0000-0000-000000000000', 'CreateUser', 'tollhouse-replay:oduya:user-1', '{"email": "948132d97b4dfdf6db1f74ec4d255d2f", "username": "12ae32cb1ec02d01eda3581b127c1fee", "full_name": "1438d3a3d27db5e4cdfdae8acee6c7a5", "picture_url": "12ae32cb1ec02d01eda3581b127c1fee"}', '01a21591-d923-7fb8-9aac-3d6bce21fb2c', '2026-11-26 01:56:49.571798+00'),
	('00000000-0000-0000-0000-000000000000', 'CreateOrganization', 'tollhouse-replay:oduya', '{"name": "32536b640c06def47c808032d8fbe5c9", "owner_user_id": "c684e4fd47d7866cd8597ef603fd4fd7"}', '01a21591-d92d-7608-b484-8558c02f4cd8', '2026-11-26 01:56:49.581582+00'),
	('01a21591-d92d-7608-b484-8558c02f4cd8', 'CreateProject', 'tollhouse-replay:oduya:thesis', '{"name": "2fd46d812685a0c4e017b5e35e91cc92", "description": "12ae32cb1ec02d01eda3581b127c1fee"}', '01a21591-d939-72c4-b21e-4c7e3f1b8304', '2026-11-26 01:56:49.593186+00'),
	('01a21591-d92d-7608-b484-8558c02f4cd8', 'CreateApiKey', 'tollhouse-replay:oduya:01a21591-d939-72c4-b21e-4c7e3f1b8304:01a21591-d923-7fb8-9aac-3d6bce21fb2c', '{"name": "2aa310588c26f507b89c938ebd02d51a", "scopes": "4f53cda18c2baa0c0354bb5f9a3ecbe5", "user_id": "c684e4fd47d7866cd8597ef603fd4fd7", "metadata": "44136fa355b3678a1146ad16f7e8649e", "project_id": "bf67d202c6f8e0097d5a1f81cc51ed82", "environment": "4d967a30111bf29f0eba01c448b375c1", "expire_time": "74234e98afe7498fb5daf1f36ac2d78a", "external_id": "12ae32cb1ec02d01eda3581b127c1fee", "allowed_models": "ecdc545125bbb52b68ef8a4cebccada4"}', '01a21591-d941-79e0-87b0-0503f7bd6baa', '2026-11-26 01:56:49.601751+00');
INSERT INTO identity.revision_counter VALUES
	(true, 36);
INSERT INTO identity.users VALUES
	('01a21591-d118-75d2-86af-2f09e989170a', 'user-1@northwind.example', 'user-1@northwind.example', NULL, NULL, 'User 1 of Northwind Research', '', '2026-11-26 01:56:47.512184+00', '2026-11-26 01:56:47.512184+00', NULL, NULL, NULL, 'user', NULL, NULL, NULL, NULL, NULL, '01a21591-d11e-7afc-9ea2-bf72cfad255f', '', 1, '{}', ''),
	('01a21591-d213-7560-a1e5-06a31945dc79', 'user-2@northwind.example', 'user-2@northwind.example', NULL, NULL, 'User 2 of Northwind Research', '', '2026-11-26 01:56:47.763175+00', '2026-11-26 01:56:47.763175+00', NULL, NULL, NULL, 'user', NULL, NULL, NULL, NULL, NULL, '01a21591-d215-76e6-b100-97ca42b1b434', '', 1, '{}', ''),
	('01a21591-d222-7eb2-9ee1-3477e3460383', 'user-3@northwind.example', 'user-3@northwind.example', NULL, NULL, 'User 3 of Northwind Research', '', '2026-11-26 01:56:47.778568+00', '2026-11-26 01:56:47.778568+00', NULL, NULL, NULL, 'user', NULL, NULL, NULL, NULL, NULL, '01a21591-d224-775b-85aa-042038161cb5', '', 1, '{}', ''),
	('01a21591-d22f-770b-b594-fdd45ba480e3', 'user-4@northwind.example', 'user-4@northwind.example', NULL, NULL, 'User 4 of Northwind Research', '', '2026-11-26 01:56:47.791838+00', '2026-11-26 01:56:47.791838+00', NULL, NULL, NULL, 'user', NULL, NULL, NULL, NULL, NULL, '01a21591-d231-7cb5-b271-1ebc94bdd3ed', '', 1, '{}', ''),
	('01a21591-d6e7-7984-bcf7-f477afc4fdc2', 'user-1@blueharbor.example', 'user-1@blueharbor.example', NULL, NULL, 'User 1 of Blue Harbor Logistics', '', '2026-11-26 01:56:48.999373+00', '2026-11-26 01:56:48.999373+00', NULL, NULL, NULL, 'user', NULL, NULL, NULL, NULL, NULL, '01a21591-d6ea-7036-bfd7-110be3da098c', '', 1, '{}', ''),
	('01a21591-d70a-7da9-bdee-d689cb13d367', 'user-2@blueharbor.example', 'user-2@blueharbor.example', NULL, NULL, 'User 2 of Blue Harbor Logistics', '', '2026-11-26 01:56:49.034757+00', '2026-11-26 01:56:49.034757+00', NULL, NULL, NULL, 'user', NULL, NULL, NULL, NULL, NULL, '01a21591-d713-7036-86ee-0afe3f15bf91', '', 1, '{}', ''),
	('01a21591-d772-79a7-b44c-8a7662429fc8', 'user-3@blueharbor.example', 'user-3@blueharbor.example', NULL, NULL, 'User 3 of Blue Harbor Logistics', '', '2026-11-26 01:56:49.138856+00', '2026-11-26 01:56:49.138856+00', NULL, NULL, NULL, 'user', NULL, NULL, NULL, NULL, NULL, '01a21591-d776-719d-96d5-8a04577d6664', '', 1, '{}', ''),
	('01a21591-d7f6-7e61-9dc3-1d2345b1f59a', 'user-1@cedarpine.example', 'user-1@cedarpine.example', NULL, NULL, 'User 1 of Cedar & Pine Clinics', '', '2026-11-26 01:56:49.270092+00', '2026-11-26 01:56:49.270092+00', NULL, NULL, NULL, 'user', NULL, NULL, NULL, NULL, NULL, '01a21591-d7f7-742e-904f-726dd397c9b1', '', 1, '{}', ''),
	('01a21591-d801-7bea-955a-e6a795908c11', 'user-2@cedarpine.example', 'user-2@cedarpine.example', NULL, NULL, 'User 2 of Cedar & Pine Clinics', '', '2026-11-26 01:56:49.28151+00', '2026-11-26 01:56:49.28151+00', NULL, NULL, NULL, 'user', NULL, NULL, NULL, NULL, NULL, '01a21591-d802-711d-bb49-50e2cc1e2545', '', 1, '{}', ''),
	('01a21591-d80e-745d-ac07-53d80081eca3', 'user-3@cedarpine.example', 'user-3@cedarpine.example', NULL, NULL, 'User 3 of Cedar & Pine Clinics', '', '2026-11-26 01:56:49.294013+00', '2026-11-26 01:56:49.294013+00', NULL, NULL, NULL, 'user', NULL, NULL, NULL, NULL, NULL, '01a21591-d80e-75f0-8307-ae1009d81d80', '', 1, '{}', ''),
	('01a21591-d8bd-73d6-9922-8f23502c6287', 'user-1@quarrystreet.example', 'user-1@quarrystreet.example', NULL, NULL, 'User 1 of Quarry Street Games', '', '2026-11-26 01:56:49.469985+00', '2026-11-26 01:56:49.469985+00', NULL, NULL, NULL, 'user', NULL, NULL, NULL, NULL, NULL, '01a21591-d8c1-760f-a0a5-b4e5b8837eca', '', 1, '{}', ''),
	('01a21591-d8c7-7a34-aa7c-faf38b19d29b', 'user-2@quarrystreet.example', 'user-2@quarrystreet.example', NULL, NULL, 'User 2 of Quarry Street Games', '', '2026-11-26 01:56:49.479682+00', '2026-11-26 01:56:49.479682+00', NULL, NULL, NULL, 'user', NULL, NULL, NULL, NULL, NULL, '01a21591-d8c8-7cd4-a827-46863d13c7cc', '', 1, '{}', ''),
	('01a21591-d923-7fb8-9aac-3d6bce21fb2c', 'user-1@oduya.example', 'user-1@oduya.example', NULL, NULL, 'User 1 of Marta Oduya', '', '2026-11-26 01:56:49.571798+00', '2026-11-26 01:56:49.571798+00', NULL, NULL, NULL, 'user', NULL, NULL, NULL, NULL, NULL, '01a21591-d927-7ae8-9f13-eb7cbf8706be', '', 1, '{}', ''),
	('01a21591-dc25-738b-99e8-3725dd6a5f74', 'acme@example.com', 'acme@example.com', NULL, NULL, '', '', '2026-11-26 01:56:50.34168+00', '2026-11-26 01:56:50.34168+00', NULL, NULL, NULL, 'user', NULL, NULL, NULL, NULL, NULL, '01a21591-dc25-700c-b2c7-9d0260f62b2d', '', 1, '{}', ''),
	('01a21591-dc31-7e53-9555-5a3c26d1db1e', 'euro@example.com', 'euro@example.com', NULL, NULL, '', '', '2026-11-26 01:56:50.35315+00', '2026-11-26 01:56:50.35315+00', NULL, NULL, NULL, 'user', NULL, NULL, NULL, NULL, NULL, '01a21591-dc31-7f7f-a400-9da373865ce3', '', 1, '{}', ''),
	('01a21591-dc39-7c32-bcc6-3877f260e5bc', 'poor@example.com', 'poor@example.com', NULL, NULL, '', '', '2026-11-26 01:56:50.361949+00', '2026-11-26 01:56:50.361949+00', NULL, NULL, NULL, 'user', NULL, NULL, NULL, NULL, NULL, '01a21591-dc3a-71c4-b5eb-00305fcc2367', '', 1, '{}', '');
INSERT INTO metering.alembic_version VALUES
	('0003');
INSERT INTO metering.audit_events VALUES
	('00000000-0000-0000-0000-000000000000', 1, '01a21591-d087-7d98-8544-e9a7f3e1426d', '2026-11-26 01:56:47.048468+00', 'ImportModels', 'operator:cli', NULL, 'price_list', 'catalogue', '[{"after": "6", "field": "imported_count", "before": null}, {"after": "2015-01-01T00:00:00+00:00", "field": "effective_time", "before": null}]', '127.0.0.1', 'grpc-python-asyncio/1.85.1 grpc-c/58.0.0 (linux; chttp2)', '', '\x0000000000000000000000000000000000000000000000000000000000000000', '\x8b820c2207996c9a8e24e25f1195f358b854a108dd1bb6ec3796ffa2ccc83d9f'),
	('00000000-0000-0000-0000-000000000000', 2, '01a21591-dc02-7cb9-b610-387a79fd163d', '2026-11-26 01:56:50.304645+00', 'CreateModel', 'operator:cli', NULL, 'model', 'swift-1', '[{"after": "acme", "field": "provider", "before": null}, {"after": "", "field": "display_name", "before": null}, {"after": "", "field": "capabilities", "before": null}, {"after": "0", "field": "context_length", "before": null}, {"after": "0", "field": "max_output_tokens", "before": null}, {"after": "true", "field": "active", "before": null}]', '127.0.0.1', 'grpc-python-asyncio/1.85.1 grpc-c/58.0.0 (linux; chttp2)', 'm1', '\x8b820c2207996c9a8e24e25f1195f358b854a108dd1bb6ec3796ffa2ccc83d9f', '\xa80abc3cd21bac22382e0ffd5216f1ec677c4e4f99a8f667de6b4f86b63498ff'),
	('00000000-0000-0000-0000-000000000000', 3, '01a21591-dc18-75ee-a0f8-3f1a8d84c396', '2026-11-26 01:56:50.32488+00', 'SetPrice', 'operator:cli', NULL, 'price_version', '01a21591-dc14-7275-8284-130e3e25f58f', '[{"after": "swift-1", "field": "model_id", "before": null}, {"after": "1970-01-01T00:00:01+00:00", "field": "effective_time", "before": null}, {"after": "USD", "field": "currency_code", "before": null}, {"after": "3", "field": "prices.input", "before": null}, {"after": "15", "field": "prices.output", "before": null}]', '127.0.0.1', 'grpc-python-asyncio/1.85.1 grpc-c/58.0.0 (linux; chttp2)', 'p1', '\xa80abc3cd21bac22382e0ffd5216f1ec677c4e4f99a8f667de6b4f86b63498ff', '\xd98434e6b3526d27a1870a7c5a5579d55166a968c49dd90861275735306d9000'),
	('01a21591-dc2c-769a-824b-3114acd37b48', 1, '01a21591-dc43-77da-8731-72dec6c32cfa', '2026-11-26 01:56:50.369919+00', 'SetPrice', 'operator:cli', NULL, 'price_version', '01a21591-dc41-71b6-8645-0a83f2393166', '[{"after": "swift-1", "field": "model_id", "before": null}, {"after": "1970-01-01T00:00:01+00:00", "field": "effective_time", "before": null}, {"after": "USD", "field": "currency_code", "before": null}, {"after": "2", "field": "prices.input", "before": null}, {"after": "10", "field": "prices.output", "before": null}]', '127.0.0.1', 'grpc-python-asyncio/1.85.1 grpc-c/58.0.0 (linux; chttp2)', 'p2', '\x0000000000000000000000000000000000000000000000000000000000000000', '\x7ce6ef3d324c5dcb202f20573e5d751e8c05030180352d6dcc4d4741a95edb0f');
INSERT INTO metering.audit_heads VALUES
	('00000000-0000-0000-0000-000000000000', 3, '\xd98434e6b3526d27a1870a7c5a5579d55166a968c49dd90861275735306d9000', '2026-11-26 01:56:50.32488+00'),
	('01a21591-dc2c-769a-824b-3114acd37b48', 1, '\x7ce6ef3d324c5dcb202f20573e5d751e8c05030180352d6dcc4d4741a95edb0f', '2026-11-26 01:56:50.369919+00');
INSERT INTO metering.authorizations VALUES
	('01a21591-d819-7f2b-9f47-663bd3ad93fd', 'before:3', '\xd44492424ab20ecdf7a07e33971eb505', '01a21591-d846-79e8-a575-b04a50e9ece2', '01a21591-d80e-745d-ac07-53d80081eca3', NULL, '01a21591-d879-790b-8a70-72ab6866c4fc', 'gpt-4o', '/v1/chat/completions', 207, 3, 600000, '01a21591-cfb7-7cf8-bcd0-bcf6e8ee95a3', 'USD', 0.000547500, false, '2026-11-26 01:56:49.796064+00'),
	('01a21591-d248-7f3c-b264-e85ced818edb', 'before:30', '\x7a3c2fa281be4877ef27e2256accea09', '01a21591-d3bf-7946-a686-4a4c64f29467', '01a21591-d213-7560-a1e5-06a31945dc79', NULL, '01a21591-d563-7f01-aa8b-4c390d9a6b42', 'gpt-4o', '/v1/chat/completions', 2907, 30, 600000, '01a21591-cfb7-7cf8-bcd0-bcf6e8ee95a3', 'USD', 0.007567500, false, '2026-11-26 01:56:49.819996+00'),
	('01a21591-dc2c-769a-824b-3114acd37b48', 'call-settled', '\x452b8ff6f392fbc5ab18e54baba2e3fe', NULL, NULL, NULL, NULL, 'swift-1', NULL, 1200, 800, 600000, '01a21591-dc41-71b6-8645-0a83f2393166', 'USD', 0.010400000, false, '2026-11-26 01:56:50.507866+00'),
	('01a21591-dc2c-769a-824b-3114acd37b48', 'call-open', '\x6aaeea1749d88b61a612f1d83a06b5b1', NULL, NULL, NULL, NULL, 'swift-1', NULL, 1200, 800, 600000, '01a21591-dc41-71b6-8645-0a83f2393166', 'USD', 0.010400000, false, '2026-11-26 01:56:50.514713+00'),
	('01a21591-dc3d-7a32-960b-c28a8913c46a', 'call-denied', '\xb12cdf866ae94928a466876f0ee006f4', NULL, NULL, NULL, NULL, 'swift-1', NULL, 1200, 800, 600000, '01a21591-dc14-7275-8284-130e3e25f58f', 'USD', 0.015600000, false, '2026-11-26 01:56:50.545415+00'),
	('01a21591-dc2c-769a-824b-3114acd37b48', 'call-cancelled', '\x4cba67ad038a7d0a2014145919f80a99', NULL, NULL, NULL, NULL, 'swift-1', NULL, 1200, 800, 600000, '01a21591-dc41-71b6-8645-0a83f2393166', 'USD', 0.010400000, true, '2026-11-26 01:56:50.525827+00');
INSERT INTO metering.catalogue_requests VALUES
	('m1', 'CreateModel', '\x0a026d31120773776966742d311a0461636d65', '\x0a300a0773776966742d31120461636d654001520c08e2a39ed806108887a291015a0c08e2a39ed806108887a29101620132', '2026-11-26 01:56:50.306775+00'),
	('p1', 'SetPrice', '\x0a027031120773776966742d3122035553442a070a01331202313532020801', '\x0a590a2430316132313539312d646331342d373237352d383238342d313330653365323566353866120773776966742d3122035553442a070a013312023135320208013a0c08e2a39ed80610808df59a0142085365745072696365', '2026-11-26 01:56:50.329437+00'),
	('p2', 'SetPrice', '\x0a027032120773776966742d311a2430316132313539312d646332632d373639612d383234622d33313134616364333762343822035553442a070a01321202313032020801', '\x0a7f0a2430316132313539312d646334312d373162362d383634352d306138336632333933313636120773776966742d311a2430316132313539312d646332632d373639612d383234622d33313134616364333762343822035553442a070a013212023130320208013a0c08e2a39ed806109888b2b00142085365745072696365', '2026-11-26 01:56:50.372552+00');
INSERT INTO metering.catalogue_state VALUES
	(true, 4);
INSERT INTO metering.models VALUES
	('gpt-4o', 'openai', 'GPT-4o', '', '{}', 128000, 16384, true, '{}', 1, '2026-11-26 01:56:47.048468+00', '2026-11-26 01:56:47.048468+00'),
	('gpt-4o-mini', 'openai', 'GPT-4o mini', '', '{}', 128000, 16384, true, '{}', 1, '2026-11-26 01:56:47.048468+00', '2026-11-26 01:56:47.048468+00'),
	('gpt-4.1', 'openai', 'GPT-4.1', '', '{}', 1047576, 32768, true, '{}', 1, '2026-11-26 01:56:47.048468+00', '2026-11-26 01:56:47.048468+00'),
	('claude-sonnet-4-20250514', 'anthropic', 'Claude Sonnet 4', '', '{}', 200000, 64000, true, '{}', 1, '2026-11-26 01:56:47.048468+00', '2026-11-26 01:56:47.048468+00'),
	('claude-3-5-haiku-20241022', 'anthropic', 'Claude Haiku 3.5', '', '{}', 200000, 8192, true, '{}', 1, '2026-11-26 01:56:47.048468+00', '2026-11-26 01:56:47.048468+00'),
	('gemini-2.5-flash', 'google', 'Gemini 2.5 Flash', '', '{}', 1048576, 65535, true, '{}', 1, '2026-11-26 01:56:47.048468+00', '2026-11-26 01:56:47.048468+00'),
	('swift-1', 'acme', '', '', '{}', 0, 0, true, '{}', 2, '2026-11-26 01:56:50.304645+00', '2026-11-26 01:56:50.304645+00');
INSERT INTO metering.outbox VALUES
	('01a21591-dc36-70e6-b96b-67e2f6bfa593', 'refused', 'DEBIT', 'REFUSED', 0.006000000, 'USD', NULL, 'swift-1', 0, 'CURRENCY_MISMATCH', '2026-11-26 01:57:50.700088+00', '2026-11-26 01:56:50.689841+00'),
	('01a21591-dc2c-769a-824b-3114acd37b48', 'pending-0', 'DEBIT', 'PENDING', 0.004000000, 'USD', NULL, 'swift-1', 0, NULL, '2026-11-26 01:56:55.725461+00', '2026-11-26 01:56:50.725461+00'),
	('01a21591-dc2c-769a-824b-3114acd37b48', 'pending-1', 'DEBIT', 'PENDING', 0.004000000, 'USD', NULL, 'swift-1', 0, NULL, '2026-11-26 01:56:58.746325+00', '2026-11-26 01:56:53.746325+00'),
	('01a21591-dc2c-769a-824b-3114acd37b48', 'pending-2', 'DEBIT', 'PENDING', 0.004000000, 'USD', NULL, 'swift-1', 0, NULL, '2026-11-26 01:56:58.749264+00', '2026-11-26 01:56:53.749264+00'),
	('01a21591-dc36-70e6-b96b-67e2f6bfa593', 'set-aside', 'DEBIT', 'DEAD', 0.006000000, 'USD', NULL, 'swift-1', 0, 'CURRENCY_MISMATCH', '2026-11-26 01:57:50.717289+00', '2026-11-26 01:56:50.707097+00');
INSERT INTO metering.price_versions VALUES
	('01a21591-cfb7-7cf8-bcd0-bcf6e8ee95a3', NULL, 'gpt-4o', 'USD', 2.500000000, 10.000000000, 1.250000000, NULL, NULL, NULL, NULL, NULL, NULL, '2015-01-01 00:00:00+00', '2026-11-26 01:56:47.048468+00', 'catalogue', 1),
	('01a21591-cfb7-7903-a600-3b63d702b923', NULL, 'gpt-4o-mini', 'USD', 0.150000000, 0.600000000, 0.075000000, NULL, NULL, NULL, NULL, NULL, NULL, '2015-01-01 00:00:00+00', '2026-11-26 01:56:47.048468+00', 'catalogue', 1),
	('01a21591-cfb7-7b2a-b318-4d3c40fe98d0', NULL, 'gpt-4.1', 'USD', 2.000000000, 8.000000000, 0.500000000, NULL, NULL, NULL, NULL, NULL, NULL, '2015-01-01 00:00:00+00', '2026-11-26 01:56:47.048468+00', 'catalogue', 1),
	('01a21591-cfb7-7506-b0b7-bc38a9e5a572', NULL, 'claude-sonnet-4-20250514', 'USD', 3.000000000, 15.000000000, 0.300000000, 3.750000000, NULL, NULL, NULL, NULL, NULL, '2015-01-01 00:00:00+00', '2026-11-26 01:56:47.048468+00', 'catalogue', 1),
	('01a21591-cfb7-7a5e-9b5f-36101990930b', NULL, 'claude-3-5-haiku-20241022', 'USD', 0.800000000, 4.000000000, 0.080000000, 1.000000000, NULL, NULL, NULL, NULL, NULL, '2015-01-01 00:00:00+00', '2026-11-26 01:56:47.048468+00', 'catalogue', 1),
	('01a21591-cfb7-7758-af0e-4abaf1a94d92', NULL, 'gemini-2.5-flash', 'USD', 0.300000000, 2.500000000, 0.075000000, NULL, NULL, NULL, NULL, NULL, NULL, '2015-01-01 00:00:00+00', '2026-11-26 01:56:47.048468+00', 'catalogue', 1),
	('01a21591-dc14-7275-8284-130e3e25f58f', NULL, 'swift-1', 'USD', 3.000000000, 15.000000000, NULL, NULL, NULL, NULL, NULL, NULL, NULL, '1970-01-01 00:00:01+00', '2026-11-26 01:56:50.32488+00', 'SetPrice', 3),
	('01a21591-dc41-71b6-8645-0a83f2393166', '01a21591-dc2c-769a-824b-3114acd37b48', 'swift-1', 'USD', 2.000000000, 10.000000000, NULL, NULL, NULL, NULL, NULL, NULL, NULL, '1970-01-01 00:00:01+00', '2026-11-26 01:56:50.369919+00', 'SetPrice', 4);
INSERT INTO metering.unpriced_usages VALUES
	('01a21591-dc2c-769a-824b-3114acd37b48', '01a21591-dd7a-72f8-ad35-7e9c2785fd6b', '2026-11-26 01:56:50.680996+00', 'unknown-model');
INSERT INTO metering.usage_hours VALUES
	('01a21591-d248-7f3c-b264-e85ced818edb', '2026-11-26 01:00:00+00', 'claude-3-5-haiku-20241022', '01a21591-d33a-7e73-b818-ce3e7ad7d2a5', '01a21591-d118-75d2-86af-2f09e989170a', '01a21591-d40f-7e0b-90ec-8cd6702e09f8', 'USD', 1, 0, 1107, 12, 0, 0, 0, 0, 0, 0, 0.000933600, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0),
	('01a21591-d248-7f3c-b264-e85ced818edb', '2026-11-26 01:00:00+00', 'claude-3-5-haiku-20241022', '01a21591-d3bf-7946-a686-4a4c64f29467', '01a21591-d118-75d2-86af-2f09e989170a', '01a21591-d52d-7d9c-ab34-2496c2cd394d', 'USD', 1, 0, 607, 7, 0, 0, 0, 0, 0, 0, 0.000513600, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0),
	('01a21591-d248-7f3c-b264-e85ced818edb', '2026-11-26 01:00:00+00', 'claude-3-5-haiku-20241022', '01a21591-d3de-796a-8c93-62b403054b94', '01a21591-d22f-770b-b594-fdd45ba480e3', '01a21591-d6c3-75f3-94ba-e246e6c22917', 'USD', 1, 0, 507, 6, 0, 0, 0, 0, 0, 0, 0.000429600, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0),
	('01a21591-d248-7f3c-b264-e85ced818edb', '2026-11-26 01:00:00+00', 'claude-sonnet-4-20250514', '01a21591-d33a-7e73-b818-ce3e7ad7d2a5', '01a21591-d118-75d2-86af-2f09e989170a', '01a21591-d40f-7e0b-90ec-8cd6702e09f8', 'USD', 1, 0, 1707, 18, 0, 0, 0, 0, 0, 0, 0.005391000, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0),
	('01a21591-d248-7f3c-b264-e85ced818edb', '2026-11-26 01:00:00+00', 'claude-sonnet-4-20250514', '01a21591-d33a-7e73-b818-ce3e7ad7d2a5', '01a21591-d22f-770b-b594-fdd45ba480e3', '01a21591-d4f6-7753-85b7-93dfeac2731a', 'USD', 1, 0, 2607, 27, 0, 0, 0, 0, 0, 0, 0.008226000, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0),
	('01a21591-d248-7f3c-b264-e85ced818edb', '2026-11-26 01:00:00+00', 'gemini-2.5-flash', '01a21591-d33a-7e73-b818-ce3e7ad7d2a5', '01a21591-d213-7560-a1e5-06a31945dc79', '01a21591-d487-7bcd-868b-e7fef7496f28', 'USD', 2, 0, 5314, 55, 0, 0, 0, 0, 0, 0, 0.001731700, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0),
	('01a21591-d248-7f3c-b264-e85ced818edb', '2026-11-26 01:00:00+00', 'gemini-2.5-flash', '01a21591-d33a-7e73-b818-ce3e7ad7d2a5', '01a21591-d222-7eb2-9ee1-3477e3460383', '01a21591-d4c3-7601-80e7-67a87d2f6726', 'USD', 1, 0, 1307, 14, 0, 0, 0, 0, 0, 0, 0.000427100, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0),
	('01a21591-d248-7f3c-b264-e85ced818edb', '2026-11-26 01:00:00+00', 'gemini-2.5-flash', '01a21591-d3bf-7946-a686-4a4c64f29467', '01a21591-d118-75d2-86af-2f09e989170a', '01a21591-d52d-7d9c-ab34-2496c2cd394d', 'USD', 1, 0, 3107, 32, 0, 0, 0, 0, 0, 0, 0.001012100, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0),
	('01a21591-d248-7f3c-b264-e85ced818edb', '2026-11-26 01:00:00+00', 'gemini-2.5-flash', '01a21591-d3bf-7946-a686-4a4c64f29467', '01a21591-d222-7eb2-9ee1-3477e3460383', '01a21591-d5a4-746a-a196-5d57936891a0', 'USD', 1, 0, 3007, 31, 0, 0, 0, 0, 0, 0, 0.000979600, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0),
	('01a21591-d248-7f3c-b264-e85ced818edb', '2026-11-26 01:00:00+00', 'gpt-4.1', '01a21591-d3de-796a-8c93-62b403054b94', '01a21591-d118-75d2-86af-2f09e989170a', '01a21591-d60d-7854-8345-bccb37f8728a', 'USD', 1, 0, 2107, 22, 0, 0, 0, 0, 0, 0, 0.004390000, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0),
	('01a21591-d248-7f3c-b264-e85ced818edb', '2026-11-26 01:00:00+00', 'gpt-4o', '01a21591-d33a-7e73-b818-ce3e7ad7d2a5', '01a21591-d118-75d2-86af-2f09e989170a', '01a21591-d40f-7e0b-90ec-8cd6702e09f8', 'USD', 1, 0, 3407, 35, 0, 0, 0, 0, 0, 0, 0.008867500, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0),
	('01a21591-d248-7f3c-b264-e85ced818edb', '2026-11-26 01:00:00+00', 'gpt-4o', '01a21591-d33a-7e73-b818-ce3e7ad7d2a5', '01a21591-d213-7560-a1e5-06a31945dc79', '01a21591-d487-7bcd-868b-e7fef7496f28', 'USD', 1, 0, 807, 9, 0, 0, 0, 0, 0, 0, 0.002107500, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0),
	('01a21591-d248-7f3c-b264-e85ced818edb', '2026-11-26 01:00:00+00', 'gpt-4o', '01a21591-d3bf-7946-a686-4a4c64f29467', '01a21591-d118-75d2-86af-2f09e989170a', '01a21591-d52d-7d9c-ab34-2496c2cd394d', 'USD', 1, 0, 7, 1, 0, 0, 0, 0, 0, 0, 0.000027500, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0),
	('01a21591-d248-7f3c-b264-e85ced818edb', '2026-11-26 01:00:00+00', 'gpt-4o', '01a21591-d3bf-7946-a686-4a4c64f29467', '01a21591-d222-7eb2-9ee1-3477e3460383', '01a21591-d5a4-746a-a196-5d57936891a0', 'USD', 1, 0, 2507, 26, 0, 0, 0, 0, 0, 0, 0.006527500, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0),
	('01a21591-d248-7f3c-b264-e85ced818edb', '2026-11-26 01:00:00+00', 'gpt-4o', '01a21591-d3de-796a-8c93-62b403054b94', '01a21591-d213-7560-a1e5-06a31945dc79', '01a21591-d63e-7089-a040-e3c081b3c1b1', 'USD', 1, 0, 407, 5, 0, 0, 0, 0, 0, 0, 0.001067500, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0),
	('01a21591-d248-7f3c-b264-e85ced818edb', '2026-11-26 01:00:00+00', 'gpt-4o-mini', '01a21591-d33a-7e73-b818-ce3e7ad7d2a5', '01a21591-d118-75d2-86af-2f09e989170a', '01a21591-d40f-7e0b-90ec-8cd6702e09f8', 'USD', 2, 0, 3214, 34, 0, 0, 0, 0, 0, 0, 0.000502500, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0),
	('01a21591-d248-7f3c-b264-e85ced818edb', '2026-11-26 01:00:00+00', 'gpt-4o-mini', '01a21591-d33a-7e73-b818-ce3e7ad7d2a5', '01a21591-d213-7560-a1e5-06a31945dc79', '01a21591-d487-7bcd-868b-e7fef7496f28', 'USD', 2, 0, 3314, 35, 0, 0, 0, 0, 0, 0, 0.000518100, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0),
	('01a21591-d248-7f3c-b264-e85ced818edb', '2026-11-26 01:00:00+00', 'gpt-4o-mini', '01a21591-d33a-7e73-b818-ce3e7ad7d2a5', '01a21591-d22f-770b-b594-fdd45ba480e3', '01a21591-d4f6-7753-85b7-93dfeac2731a', 'USD', 1, 0, 3207, 33, 0, 0, 0, 0, 0, 0, 0.000500850, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0),
	('01a21591-d248-7f3c-b264-e85ced818edb', '2026-11-26 01:00:00+00', 'gpt-4o-mini', '01a21591-d3bf-7946-a686-4a4c64f29467', '01a21591-d222-7eb2-9ee1-3477e3460383', '01a21591-d5a4-746a-a196-5d57936891a0', 'USD', 1, 0, 1507, 16, 0, 0, 0, 0, 0, 0, 0.000235650, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0),
	('01a21591-d781-72d3-91d4-64e3319ae858', '2026-11-26 01:00:00+00', 'claude-3-5-haiku-20241022', '01a21591-d797-7585-a0ba-1fe5092330d0', '01a21591-d6e7-7984-bcf7-f477afc4fdc2', '01a21591-d79f-7492-b56f-0cc2a5123255', 'USD', 1, 0, 107, 2, 0, 0, 0, 0, 0, 0, 0.000093600, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0),
	('01a21591-d781-72d3-91d4-64e3319ae858', '2026-11-26 01:00:00+00', 'claude-sonnet-4-20250514', '01a21591-d79b-779d-8de9-8cf22b7a54f0', '01a21591-d6e7-7984-bcf7-f477afc4fdc2', '01a21591-d7bd-7e4b-b261-175db0f1a2a0', 'USD', 1, 0, 3607, 37, 0, 0, 0, 0, 0, 0, 0.011376000, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0),
	('01a21591-d781-72d3-91d4-64e3319ae858', '2026-11-26 01:00:00+00', 'gpt-4o', '01a21591-d797-7585-a0ba-1fe5092330d0', '01a21591-d70a-7da9-bdee-d689cb13d367', '01a21591-d7aa-72ee-a6e7-55ab62cf9a0f', 'USD', 1, 0, 1007, 11, 0, 0, 0, 0, 0, 0, 0.002627500, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0),
	('01a21591-d781-72d3-91d4-64e3319ae858', '2026-11-26 01:00:00+00', 'gpt-4o', '01a21591-d79b-779d-8de9-8cf22b7a54f0', '01a21591-d6e7-7984-bcf7-f477afc4fdc2', '01a21591-d7bd-7e4b-b261-175db0f1a2a0', 'USD', 2, 0, 6214, 64, 0, 0, 0, 0, 0, 0, 0.016175000, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0),
	('01a21591-d781-72d3-91d4-64e3319ae858', '2026-11-26 01:00:00+00', 'gpt-4o-mini', '01a21591-d797-7585-a0ba-1fe5092330d0', '01a21591-d6e7-7984-bcf7-f477afc4fdc2', '01a21591-d79f-7492-b56f-0cc2a5123255', 'USD', 2, 0, 1914, 21, 0, 0, 0, 0, 0, 0, 0.000299700, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0),
	('01a21591-d781-72d3-91d4-64e3319ae858', '2026-11-26 01:00:00+00', 'gpt-4o-mini', '01a21591-d797-7585-a0ba-1fe5092330d0', '01a21591-d70a-7da9-bdee-d689cb13d367', '01a21591-d7aa-72ee-a6e7-55ab62cf9a0f', 'USD', 2, 0, 6314, 65, 0, 0, 0, 0, 0, 0, 0.000986100, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0),
	('01a21591-d781-72d3-91d4-64e3319ae858', '2026-11-26 01:00:00+00', 'gpt-4o-mini', '01a21591-d79b-779d-8de9-8cf22b7a54f0', '01a21591-d70a-7da9-bdee-d689cb13d367', '01a21591-d7c4-7a7f-8df5-60277a4dca44', 'USD', 1, 0, 2207, 23, 0, 0, 0, 0, 0, 0, 0.000344850, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0),
	('01a21591-d819-7f2b-9f47-663bd3ad93fd', '2026-11-26 01:00:00+00', 'claude-sonnet-4-20250514', '01a21591-d846-79e8-a575-b04a50e9ece2', '01a21591-d80e-745d-ac07-53d80081eca3', '01a21591-d879-790b-8a70-72ab6866c4fc', 'USD', 1, 0, 307, 4, 0, 0, 0, 0, 0, 0, 0.000981000, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0),
	('01a21591-d819-7f2b-9f47-663bd3ad93fd', '2026-11-26 01:00:00+00', 'gemini-2.5-flash', '01a21591-d846-79e8-a575-b04a50e9ece2', '01a21591-d7f6-7e61-9dc3-1d2345b1f59a', '01a21591-d856-71dc-8060-a7bc2e280b7c', 'USD', 1, 0, 2807, 29, 0, 0, 0, 0, 0, 0, 0.000914600, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0),
	('01a21591-d819-7f2b-9f47-663bd3ad93fd', '2026-11-26 01:00:00+00', 'gemini-2.5-flash', '01a21591-d846-79e8-a575-b04a50e9ece2', '01a21591-d80e-745d-ac07-53d80081eca3', '01a21591-d879-790b-8a70-72ab6866c4fc', 'USD', 1, 0, 1807, 19, 0, 0, 0, 0, 0, 0, 0.000589600, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0),
	('01a21591-d8d2-710a-bb84-b2e9d72a4108', '2026-11-26 01:00:00+00', 'gpt-4o', '01a21591-d8e8-7baf-8ead-29760acfc68c', '01a21591-d8bd-73d6-9922-8f23502c6287', '01a21591-d8f1-7381-94a1-b717452e8ba4', 'USD', 1, 0, 2007, 21, 0, 0, 0, 0, 0, 0, 0.005227500, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0),
	('01a21591-d8d2-710a-bb84-b2e9d72a4108', '2026-11-26 01:00:00+00', 'gpt-4o-mini', '01a21591-d8e8-7baf-8ead-29760acfc68c', '01a21591-d8bd-73d6-9922-8f23502c6287', '01a21591-d8f1-7381-94a1-b717452e8ba4', 'USD', 1, 0, 3307, 34, 0, 0, 0, 0, 0, 0, 0.000516450, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0),
	('01a21591-d92d-7608-b484-8558c02f4cd8', '2026-11-26 01:00:00+00', 'gemini-2.5-flash', '01a21591-d939-72c4-b21e-4c7e3f1b8304', '01a21591-d923-7fb8-9aac-3d6bce21fb2c', '01a21591-d941-79e0-87b0-0503f7bd6baa', 'USD', 1, 0, 3807, 39, 0, 0, 0, 0, 0, 0, 0.001239600, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0),
	('01a21591-d819-7f2b-9f47-663bd3ad93fd', '2026-11-26 01:00:00+00', 'gpt-4o', '01a21591-d846-79e8-a575-b04a50e9ece2', '01a21591-d80e-745d-ac07-53d80081eca3', '01a21591-d879-790b-8a70-72ab6866c4fc', 'USD', 1, 0, 207, 3, 0, 0, 0, 0, 0, 0, 0.000547500, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0),
	('01a21591-d248-7f3c-b264-e85ced818edb', '2026-11-26 01:00:00+00', 'gpt-4o', '01a21591-d3bf-7946-a686-4a4c64f29467', '01a21591-d213-7560-a1e5-06a31945dc79', '01a21591-d563-7f01-aa8b-4c390d9a6b42', 'USD', 1, 0, 2907, 30, 0, 0, 0, 0, 0, 0, 0.007567500, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0),
	('01a21591-dc2c-769a-824b-3114acd37b48', '2026-10-17 01:00:00+00', 'swift-1', '00000000-0000-0000-0000-000000000000', '00000000-0000-0000-0000-000000000000', '00000000-0000-0000-0000-000000000000', 'USD', 1, 0, 1000, 200, 0, 0, 0, 0, 0, 0, 0.004000000, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0),
	('01a21591-dc2c-769a-824b-3114acd37b48', '2024-05-05 00:00:00+00', 'swift-1', '00000000-0000-0000-0000-000000000000', '00000000-0000-0000-0000-000000000000', '00000000-0000-0000-0000-000000000000', 'USD', 1, 0, 1000, 200, 0, 0, 0, 0, 0, 0, 0.004000000, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0),
	('01a21591-dc2c-769a-824b-3114acd37b48', '2026-11-26 01:00:00+00', 'unknown-model', '00000000-0000-0000-0000-000000000000', '00000000-0000-0000-0000-000000000000', '00000000-0000-0000-0000-000000000000', '', 1, 0, 1000, 200, 0, 0, 0, 0, 0, 0, 0.000000000, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0),
	('01a21591-dc36-70e6-b96b-67e2f6bfa593', '2026-11-26 01:00:00+00', 'swift-1', '00000000-0000-0000-0000-000000000000', '00000000-0000-0000-0000-000000000000', '00000000-0000-0000-0000-000000000000', 'USD', 2, 0, 2000, 400, 0, 0, 0, 0, 0, 0, 0.012000000, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0),
	('01a21591-dc2c-769a-824b-3114acd37b48', '2026-11-26 01:00:00+00', 'swift-1', '00000000-0000-0000-0000-000000000000', '00000000-0000-0000-0000-000000000000', '00000000-0000-0000-0000-000000000000', 'USD', 5, 0, 5200, 1145, 0, 0, 0, 0, 0, 0, 0.021850000, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0);
INSERT INTO metering.usage_operations VALUES
	('01a21591-d248-7f3c-b264-e85ced818edb', 'before:1', '\xb25664595bacb8fd5f032eef1be746d3', '01a21591-d9f2-7641-b512-6311e78070b8', '2026-11-26 01:56:45.615111+00'),
	('01a21591-d248-7f3c-b264-e85ced818edb', 'before:10', '\x818272902ec95932da70211ff061335a', '01a21591-d9f2-79ea-b57b-81439216182b', '2026-11-26 01:56:46.615111+00'),
	('01a21591-d248-7f3c-b264-e85ced818edb', 'before:12', '\xac7de507b7ba1642683b776e1289d030', '01a21591-d9f2-78c3-9202-75cd69dd41b5', '2026-11-26 01:56:46.615111+00'),
	('01a21591-d248-7f3c-b264-e85ced818edb', 'before:14', '\xaee65769ae7ad9b3e92e588d5911f951', '01a21591-d9f2-7eab-9d2a-0722b9a3af24', '2026-11-26 01:56:46.615111+00'),
	('01a21591-d248-7f3c-b264-e85ced818edb', 'before:15', '\xf84b3b4dfde3598bb6a54ffa3c97ad41', '01a21591-d9f2-7a1b-826b-33baa3b814ec', '2026-11-26 01:56:46.615111+00'),
	('01a21591-d248-7f3c-b264-e85ced818edb', 'before:16', '\x6c59c21524d6d67cdf02f763fee09958', '01a21591-d9f2-7847-90da-f633c8113ee2', '2026-11-26 01:56:46.615111+00'),
	('01a21591-d248-7f3c-b264-e85ced818edb', 'before:17', '\xaa672c06e220d88e6303614c0b66fa5e', '01a21591-d9f2-7a2a-a261-e5db58baf44a', '2026-11-26 01:56:47.615111+00'),
	('01a21591-d248-7f3c-b264-e85ced818edb', 'before:18', '\x92648e3dec4e976eed656890a72c9c1f', '01a21591-d9f2-785b-b03f-4135d9b906c7', '2026-11-26 01:56:47.615111+00'),
	('01a21591-d248-7f3c-b264-e85ced818edb', 'before:20', '\x9a3152f3386d3b7af88ac141a136a648', '01a21591-d9f2-7d61-b457-c39c1544c7e8', '2026-11-26 01:56:47.615111+00'),
	('01a21591-d248-7f3c-b264-e85ced818edb', 'before:22', '\x8b65809692fb707da6a55d12fc969cde', '01a21591-d9f2-7395-827b-97a44bf0241a', '2026-11-26 01:56:47.615111+00'),
	('01a21591-d248-7f3c-b264-e85ced818edb', 'before:24', '\x898f5564a69792ac498979a9714304ae', '01a21591-d9f2-72bc-88f8-21e44176652a', '2026-11-26 01:56:47.615111+00'),
	('01a21591-d248-7f3c-b264-e85ced818edb', 'before:26', '\xf53493b801e230e834c993587cfb190d', '01a21591-d9f2-774c-9f48-f840e09a1114', '2026-11-26 01:56:48.615111+00'),
	('01a21591-d248-7f3c-b264-e85ced818edb', 'before:27', '\x9b62866fd86c85ccab4738137dae727e', '01a21591-d9f2-772c-842d-facc0a678821', '2026-11-26 01:56:48.615111+00'),
	('01a21591-d248-7f3c-b264-e85ced818edb', 'before:31', '\x5138efa9a43f616503011c60c6cde830', '01a21591-d9f2-7cfd-94b7-ce37f88ce2b6', '2026-11-26 01:56:48.615111+00'),
	('01a21591-d248-7f3c-b264-e85ced818edb', 'before:32', '\x82df856972d479df6056e47221e302c6', '01a21591-d9f2-7b24-85d5-142e10d3cc96', '2026-11-26 01:56:48.615111+00'),
	('01a21591-d248-7f3c-b264-e85ced818edb', 'before:33', '\x6434dbc87ba08220d6c6bc35d94f6fa4', '01a21591-d9f2-71aa-ae69-65520218244e', '2026-11-26 01:56:49.615111+00'),
	('01a21591-d248-7f3c-b264-e85ced818edb', 'before:35', '\x2ae70f5a942019f66dbe47b93692d86f', '01a21591-d9f2-7252-ba9b-9575dfd93c55', '2026-11-26 01:56:49.615111+00'),
	('01a21591-d248-7f3c-b264-e85ced818edb', 'before:38', '\x7a652a7284c08931ea57b001d1e358fe', '01a21591-d9f2-70d5-ae5f-f45e9227065a', '2026-11-26 01:56:49.615111+00'),
	('01a21591-d248-7f3c-b264-e85ced818edb', 'before:5', '\x638da3fbcc896efb5336a4c9d5cb398a', '01a21591-d9f2-7628-acca-8e0a8848cfd9', '2026-11-26 01:56:45.615111+00'),
	('01a21591-d248-7f3c-b264-e85ced818edb', 'before:6', '\x829c29e9cfca53b9ffe1555af6547141', '01a21591-d9f2-7a6e-87a0-6fa7604c84da', '2026-11-26 01:56:45.615111+00'),
	('01a21591-d248-7f3c-b264-e85ced818edb', 'before:7', '\xdc3aabdeef1d0bd8669705041e120b85', '01a21591-d9f2-73d7-9d09-d3b2e09199c5', '2026-11-26 01:56:45.615111+00'),
	('01a21591-d248-7f3c-b264-e85ced818edb', 'before:9', '\x8b702fd72bb13d2531d8f26dd0b10d35', '01a21591-d9f2-77cd-95bb-827a01be066a', '2026-11-26 01:56:46.615111+00'),
	('01a21591-d781-72d3-91d4-64e3319ae858', 'before:11', '\x6501856d0e14ab521da76cb57cd308a1', '01a21591-d9f2-7473-b6ba-2a60fd8784ed', '2026-11-26 01:56:46.615111+00'),
	('01a21591-d781-72d3-91d4-64e3319ae858', 'before:13', '\xe5d6155583b1056502d66c6087bfdd31', '01a21591-d9f2-709c-89ff-17e3c55c66a8', '2026-11-26 01:56:46.615111+00'),
	('01a21591-d781-72d3-91d4-64e3319ae858', 'before:2', '\x4bfa802693fe8563a0e7690e5ee2fd18', '01a21591-d9f2-73e4-88a3-236f4e908323', '2026-11-26 01:56:45.615111+00'),
	('01a21591-d781-72d3-91d4-64e3319ae858', 'before:23', '\x4766b24d9be845f2f10ea2d12d0aa6d0', '01a21591-d9f2-7ee6-9858-3432f7ac951a', '2026-11-26 01:56:47.615111+00'),
	('01a21591-d781-72d3-91d4-64e3319ae858', 'before:25', '\x7f7c902f4e29fb426cbb9027db9472aa', '01a21591-d9f2-76b1-bbc4-70f8838a1c4f', '2026-11-26 01:56:48.615111+00'),
	('01a21591-d781-72d3-91d4-64e3319ae858', 'before:28', '\x8d4ccedeb235a1200de00fd084de7590', '01a21591-d9f2-7538-829f-f0a56c9a3b8e', '2026-11-26 01:56:48.615111+00'),
	('01a21591-d781-72d3-91d4-64e3319ae858', 'before:36', '\x0b41ef24dd48992ee8e856f23958c327', '01a21591-d9f2-7db9-bf97-c8e4d8370234', '2026-11-26 01:56:49.615111+00'),
	('01a21591-d781-72d3-91d4-64e3319ae858', 'before:37', '\x9c0494df0ff8d2d4ab2041c88b73d0b5', '01a21591-d9f2-72b1-a6cc-d0c7fb2b207a', '2026-11-26 01:56:49.615111+00'),
	('01a21591-d781-72d3-91d4-64e3319ae858', 'before:40', '\x54ed85a223fccd3e7633057298bf9b6d', '01a21591-d9f2-746f-bfb1-aa86e6215331', '2026-11-26 01:56:49.615111+00'),
	('01a21591-d781-72d3-91d4-64e3319ae858', 'before:8', '\x3141c4cf590d1f2428bda3145d5e76f9', '01a21591-d9f2-784a-a45a-cbb592375256', '2026-11-26 01:56:45.615111+00'),
	('01a21591-d819-7f2b-9f47-663bd3ad93fd', 'before:19', '\x10f55160c29d46c1a66c2a74a5c0b10f', '01a21591-d9f2-7796-88ca-75226ab83423', '2026-11-26 01:56:47.615111+00'),
	('01a21591-d819-7f2b-9f47-663bd3ad93fd', 'before:29', '\x695f3c91add3455f44f1b0909e8b72a8', '01a21591-d9f2-7355-ac3e-5ff207db95ed', '2026-11-26 01:56:48.615111+00'),
	('01a21591-d819-7f2b-9f47-663bd3ad93fd', 'before:4', '\x6e2361e620a5dbd17403dedce5177910', '01a21591-d9f2-7b97-8c28-8290ea3e1f48', '2026-11-26 01:56:45.615111+00'),
	('01a21591-d8d2-710a-bb84-b2e9d72a4108', 'before:21', '\x9be20a29b09ce36b46ab822b432510ba', '01a21591-d9f2-782a-abdf-a32d80e7be15', '2026-11-26 01:56:47.615111+00'),
	('01a21591-d8d2-710a-bb84-b2e9d72a4108', 'before:34', '\xaf1a60aaf389f4d498d5f6efc67378c4', '01a21591-d9f2-7ea2-8726-748c3f1c49a7', '2026-11-26 01:56:49.615111+00'),
	('01a21591-d92d-7608-b484-8558c02f4cd8', 'before:39', '\x615424b9d83b2c2e691cbda871912b1e', '01a21591-d9f2-7edd-8870-a7c18a7e5a0d', '2026-11-26 01:56:49.615111+00'),
	('01a21591-d819-7f2b-9f47-663bd3ad93fd', 'before:3', '\x6d5b90acad36fca2e63f28afb54af274', '01a21591-da35-7ec0-b657-b6726a730c65', '2026-11-26 01:56:45.615111+00'),
	('01a21591-d248-7f3c-b264-e85ced818edb', 'before:30', '\x7130bc077105a25371d225bd2df19aee', '01a21591-da51-72ea-9360-9a6d0e97c4f6', '2026-11-26 01:56:48.615111+00'),
	('01a21591-dc2c-769a-824b-3114acd37b48', 'call-settled', '\xa5a0947e6b0e3cade6ff28ee55fe8688', '01a21591-dd0b-74aa-b7d5-065cbcfa6352', '2026-11-26 01:56:50.571257+00'),
	('01a21591-dc2c-769a-824b-3114acd37b48', 'recorded', '\xcabfe673bf2ed35e4116d601c9359d31', '01a21591-dd2f-787c-9cc2-b5f16f4874d8', '2026-11-26 01:56:50.60705+00'),
	('01a21591-dc2c-769a-824b-3114acd37b48', 'last-month', '\x1a6f08f8ddccfdefce4a0815baf82f76', '01a21591-dd3a-70cc-8c53-a69aa3b1e001', '2026-10-17 01:56:50+00'),
	('01a21591-dc2c-769a-824b-3114acd37b48', 'long-ago', '\x6db5471e28b1a12516647c65e8fa7df4', '01a21591-dd5b-75b1-b8cc-ecca136086e6', '2024-05-05 00:00:00+00'),
	('01a21591-dc2c-769a-824b-3114acd37b48', 'unpriced', '\xb038433a12d39e7e8f75cea35c1dab95', '01a21591-dd7a-72f8-ad35-7e9c2785fd6b', '2026-11-26 01:56:50.680996+00'),
	('01a21591-dc36-70e6-b96b-67e2f6bfa593', 'refused', '\xccbf6b8a688e6f442288d3170c31e19f', '01a21591-dd81-7b25-8560-e81f1ab0721e', '2026-11-26 01:56:50.686369+00'),
	('01a21591-dc36-70e6-b96b-67e2f6bfa593', 'set-aside', '\x75729280fcd1f58d3ee9d85a808316ce', '01a21591-dd93-7929-a772-4d722b0f76ad', '2026-11-26 01:56:50.707008+00'),
	('01a21591-dc2c-769a-824b-3114acd37b48', 'pending-0', '\x8424847677b3138f8c43ff3e9a8c012a', '01a21591-dda5-7ae2-b643-1c74d6d9de60', '2026-11-26 01:56:50.725226+00'),
	('01a21591-dc2c-769a-824b-3114acd37b48', 'pending-1', '\x992f8cba7e66021a9de4e5684acdf4f7', '01a21591-e972-7787-8ebc-a1f3f46e5a9b', '2026-11-26 01:56:53.74488+00'),
	('01a21591-dc2c-769a-824b-3114acd37b48', 'pending-2', '\x8c70b8089d273340872b9bbd7bd0a116', '01a21591-e975-7898-9a8d-8a3f485e1f26', '2026-11-26 01:56:53.749157+00');
INSERT INTO metering.usage_records_2026_10 VALUES
	('01a21591-dc2c-769a-824b-3114acd37b48', '2026-10-17 01:56:50+00', '01a21591-dd3a-70cc-8c53-a69aa3b1e001', 'last-month', NULL, NULL, NULL, NULL, 'swift-1', 1000, 200, 0, 0, 0, 0, 0, 0, NULL, NULL, NULL, NULL, NULL, NULL, false, 0.004000000, 'USD', '01a21591-dc41-71b6-8645-0a83f2393166', 'DEBIT', '2026-11-26 01:56:50.617994+00');
INSERT INTO metering.usage_records_2026_11 VALUES
	('01a21591-d248-7f3c-b264-e85ced818edb', '2026-11-26 01:56:45.615111+00', '01a21591-d9f2-7641-b512-6311e78070b8', 'before:1', '01a21591-d3bf-7946-a686-4a4c64f29467', '01a21591-d118-75d2-86af-2f09e989170a', '01a21591-d52d-7d9c-ab34-2496c2cd394d', NULL, 'gpt-4o', 7, 1, 0, 0, 0, 0, 0, 0, NULL, 200, NULL, '/v1/chat/completions', NULL, NULL, false, 0.000027500, 'USD', '01a21591-cfb7-7cf8-bcd0-bcf6e8ee95a3', 'DEBIT', '2026-11-26 01:56:49.778642+00'),
	('01a21591-d781-72d3-91d4-64e3319ae858', '2026-11-26 01:56:45.615111+00', '01a21591-d9f2-73e4-88a3-236f4e908323', 'before:2', '01a21591-d797-7585-a0ba-1fe5092330d0', '01a21591-d6e7-7984-bcf7-f477afc4fdc2', '01a21591-d79f-7492-b56f-0cc2a5123255', NULL, 'claude-3-5-haiku-20241022', 107, 2, 0, 0, 0, 0, 0, 0, NULL, 200, NULL, '/v1/chat/completions', NULL, NULL, false, 0.000093600, 'USD', '01a21591-cfb7-7a5e-9b5f-36101990930b', 'DEBIT', '2026-11-26 01:56:49.778642+00'),
	('01a21591-d819-7f2b-9f47-663bd3ad93fd', '2026-11-26 01:56:45.615111+00', '01a21591-d9f2-7b97-8c28-8290ea3e1f48', 'before:4', '01a21591-d846-79e8-a575-b04a50e9ece2', '01a21591-d80e-745d-ac07-53d80081eca3', '01a21591-d879-790b-8a70-72ab6866c4fc', NULL, 'claude-sonnet-4-20250514', 307, 4, 0, 0, 0, 0, 0, 0, NULL, 200, NULL, '/v1/chat/completions', NULL, NULL, false, 0.000981000, 'USD', '01a21591-cfb7-7506-b0b7-bc38a9e5a572', 'DEBIT', '2026-11-26 01:56:49.778642+00'),
	('01a21591-d248-7f3c-b264-e85ced818edb', '2026-11-26 01:56:45.615111+00', '01a21591-d9f2-7628-acca-8e0a8848cfd9', 'before:5', '01a21591-d3de-796a-8c93-62b403054b94', '01a21591-d213-7560-a1e5-06a31945dc79', '01a21591-d63e-7089-a040-e3c081b3c1b1', NULL, 'gpt-4o', 407, 5, 0, 0, 0, 0, 0, 0, NULL, 200, NULL, '/v1/chat/completions', NULL, NULL, false, 0.001067500, 'USD', '01a21591-cfb7-7cf8-bcd0-bcf6e8ee95a3', 'DEBIT', '2026-11-26 01:56:49.778642+00'),
	('01a21591-d248-7f3c-b264-e85ced818edb', '2026-11-26 01:56:45.615111+00', '01a21591-d9f2-7a6e-87a0-6fa7604c84da', 'before:6', '01a21591-d3de-796a-8c93-62b403054b94', '01a21591-d22f-770b-b594-fdd45ba480e3', '01a21591-d6c3-75f3-94ba-e246e6c22917', NULL, 'claude-3-5-haiku-20241022', 507, 6, 0, 0, 0, 0, 0, 0, NULL, 200, NULL, '/v1/chat/completions', NULL, NULL, false, 0.000429600, 'USD', '01a21591-cfb7-7a5e-9b5f-36101990930b', 'DEBIT', '2026-11-26 01:56:49.778642+00'),
	('01a21591-d248-7f3c-b264-e85ced818edb', '2026-11-26 01:56:45.615111+00', '01a21591-d9f2-73d7-9d09-d3b2e09199c5', 'before:7', '01a21591-d3bf-7946-a686-4a4c64f29467', '01a21591-d118-75d2-86af-2f09e989170a', '01a21591-d52d-7d9c-ab34-2496c2cd394d', NULL, 'claude-3-5-haiku-20241022', 607, 7, 0, 0, 0, 0, 0, 0, NULL, 200, NULL, '/v1/chat/completions', NULL, NULL, false, 0.000513600, 'USD', '01a21591-cfb7-7a5e-9b5f-36101990930b', 'DEBIT', '2026-11-26 01:56:49.778642+00'),
	('01a21591-d781-72d3-91d4-64e3319ae858', '2026-11-26 01:56:45.615111+00', '01a21591-d9f2-784a-a45a-cbb592375256', 'before:8', '01a21591-d797-7585-a0ba-1fe5092330d0', '01a21591-d6e7-7984-bcf7-f477afc4fdc2', '01a21591-d79f-7492-b56f-0cc2a5123255', NULL, 'gpt-4o-mini', 707, 8, 0, 0, 0, 0, 0, 0, NULL, 200, NULL, '/v1/chat/completions', NULL, NULL, false, 0.000110850, 'USD', '01a21591-cfb7-7903-a600-3b63d702b923', 'DEBIT', '2026-11-26 01:56:49.778642+00'),
	('01a21591-d248-7f3c-b264-e85ced818edb', '2026-11-26 01:56:46.615111+00', '01a21591-d9f2-77cd-95bb-827a01be066a', 'before:9', '01a21591-d33a-7e73-b818-ce3e7ad7d2a5', '01a21591-d213-7560-a1e5-06a31945dc79', '01a21591-d487-7bcd-868b-e7fef7496f28', NULL, 'gpt-4o', 807, 9, 0, 0, 0, 0, 0, 0, NULL, 200, NULL, '/v1/chat/completions', NULL, NULL, false, 0.002107500, 'USD', '01a21591-cfb7-7cf8-bcd0-bcf6e8ee95a3', 'DEBIT', '2026-11-26 01:56:49.778642+00'),
	('01a21591-d248-7f3c-b264-e85ced818edb', '2026-11-26 01:56:46.615111+00', '01a21591-d9f2-79ea-b57b-81439216182b', 'before:10', '01a21591-d33a-7e73-b818-ce3e7ad7d2a5', '01a21591-d118-75d2-86af-2f09e989170a', '01a21591-d40f-7e0b-90ec-8cd6702e09f8', NULL, 'gpt-4o-mini', 907, 10, 0, 0, 0, 0, 0, 0, NULL, 200, NULL, '/v1/chat/completions', NULL, NULL, false, 0.000142050, 'USD', '01a21591-cfb7-7903-a600-3b63d702b923', 'DEBIT', '2026-11-26 01:56:49.778642+00'),
	('01a21591-d781-72d3-91d4-64e3319ae858', '2026-11-26 01:56:46.615111+00', '01a21591-d9f2-7473-b6ba-2a60fd8784ed', 'before:11', '01a21591-d797-7585-a0ba-1fe5092330d0', '01a21591-d70a-7da9-bdee-d689cb13d367', '01a21591-d7aa-72ee-a6e7-55ab62cf9a0f', NULL, 'gpt-4o', 1007, 11, 0, 0, 0, 0, 0, 0, NULL, 200, NULL, '/v1/chat/completions', NULL, NULL, false, 0.002627500, 'USD', '01a21591-cfb7-7cf8-bcd0-bcf6e8ee95a3', 'DEBIT', '2026-11-26 01:56:49.778642+00'),
	('01a21591-d248-7f3c-b264-e85ced818edb', '2026-11-26 01:56:46.615111+00', '01a21591-d9f2-78c3-9202-75cd69dd41b5', 'before:12', '01a21591-d33a-7e73-b818-ce3e7ad7d2a5', '01a21591-d118-75d2-86af-2f09e989170a', '01a21591-d40f-7e0b-90ec-8cd6702e09f8', NULL, 'claude-3-5-haiku-20241022', 1107, 12, 0, 0, 0, 0, 0, 0, NULL, 200, NULL, '/v1/chat/completions', NULL, NULL, false, 0.000933600, 'USD', '01a21591-cfb7-7a5e-9b5f-36101990930b', 'DEBIT', '2026-11-26 01:56:49.778642+00'),
	('01a21591-d781-72d3-91d4-64e3319ae858', '2026-11-26 01:56:46.615111+00', '01a21591-d9f2-709c-89ff-17e3c55c66a8', 'before:13', '01a21591-d797-7585-a0ba-1fe5092330d0', '01a21591-d6e7-7984-bcf7-f477afc4fdc2', '01a21591-d79f-7492-b56f-0cc2a5123255', NULL, 'gpt-4o-mini', 1207, 13, 0, 0, 0, 0, 0, 0, NULL, 200, NULL, '/v1/chat/completions', NULL, NULL, false, 0.000188850, 'USD', '01a21591-cfb7-7903-a600-3b63d702b923', 'DEBIT', '2026-11-26 01:56:49.778642+00'),
	('01a21591-d248-7f3c-b264-e85ced818edb', '2026-11-26 01:56:46.615111+00', '01a21591-d9f2-7eab-9d2a-0722b9a3af24', 'before:14', '01a21591-d33a-7e73-b818-ce3e7ad7d2a5', '01a21591-d222-7eb2-9ee1-3477e3460383', '01a21591-d4c3-7601-80e7-67a87d2f6726', NULL, 'gemini-2.5-flash', 1307, 14, 0, 0, 0, 0, 0, 0, NULL, 200, NULL, '/v1/chat/completions', NULL, NULL, false, 0.000427100, 'USD', '01a21591-cfb7-7758-af0e-4abaf1a94d92', 'DEBIT', '2026-11-26 01:56:49.778642+00'),
	('01a21591-d248-7f3c-b264-e85ced818edb', '2026-11-26 01:56:46.615111+00', '01a21591-d9f2-7a1b-826b-33baa3b814ec', 'before:15', '01a21591-d33a-7e73-b818-ce3e7ad7d2a5', '01a21591-d213-7560-a1e5-06a31945dc79', '01a21591-d487-7bcd-868b-e7fef7496f28', NULL, 'gpt-4o-mini', 1407, 15, 0, 0, 0, 0, 0, 0, NULL, 200, NULL, '/v1/chat/completions', NULL, NULL, false, 0.000220050, 'USD', '01a21591-cfb7-7903-a600-3b63d702b923', 'DEBIT', '2026-11-26 01:56:49.778642+00'),
	('01a21591-d248-7f3c-b264-e85ced818edb', '2026-11-26 01:56:46.615111+00', '01a21591-d9f2-7847-90da-f633c8113ee2', 'before:16', '01a21591-d3bf-7946-a686-4a4c64f29467', '01a21591-d222-7eb2-9ee1-3477e3460383', '01a21591-d5a4-746a-a196-5d57936891a0', NULL, 'gpt-4o-mini', 1507, 16, 0, 0, 0, 0, 0, 0, NULL, 200, NULL, '/v1/chat/completions', NULL, NULL, false, 0.000235650, 'USD', '01a21591-cfb7-7903-a600-3b63d702b923', 'DEBIT', '2026-11-26 01:56:49.778642+00'),
	('01a21591-d248-7f3c-b264-e85ced818edb', '2026-11-26 01:56:47.615111+00', '01a21591-d9f2-7a2a-a261-e5db58baf44a', 'before:17', '01a21591-d33a-7e73-b818-ce3e7ad7d2a5', '01a21591-d213-7560-a1e5-06a31945dc79', '01a21591-d487-7bcd-868b-e7fef7496f28', NULL, 'gemini-2.5-flash', 1607, 17, 0, 0, 0, 0, 0, 0, NULL, 200, NULL, '/v1/chat/completions', NULL, NULL, false, 0.000524600, 'USD', '01a21591-cfb7-7758-af0e-4abaf1a94d92', 'DEBIT', '2026-11-26 01:56:49.778642+00'),
	('01a21591-d248-7f3c-b264-e85ced818edb', '2026-11-26 01:56:47.615111+00', '01a21591-d9f2-785b-b03f-4135d9b906c7', 'before:18', '01a21591-d33a-7e73-b818-ce3e7ad7d2a5', '01a21591-d118-75d2-86af-2f09e989170a', '01a21591-d40f-7e0b-90ec-8cd6702e09f8', NULL, 'claude-sonnet-4-20250514', 1707, 18, 0, 0, 0, 0, 0, 0, NULL, 200, NULL, '/v1/chat/completions', NULL, NULL, false, 0.005391000, 'USD', '01a21591-cfb7-7506-b0b7-bc38a9e5a572', 'DEBIT', '2026-11-26 01:56:49.778642+00'),
	('01a21591-d819-7f2b-9f47-663bd3ad93fd', '2026-11-26 01:56:47.615111+00', '01a21591-d9f2-7796-88ca-75226ab83423', 'before:19', '01a21591-d846-79e8-a575-b04a50e9ece2', '01a21591-d80e-745d-ac07-53d80081eca3', '01a21591-d879-790b-8a70-72ab6866c4fc', NULL, 'gemini-2.5-flash', 1807, 19, 0, 0, 0, 0, 0, 0, NULL, 200, NULL, '/v1/chat/completions', NULL, NULL, false, 0.000589600, 'USD', '01a21591-cfb7-7758-af0e-4abaf1a94d92', 'DEBIT', '2026-11-26 01:56:49.778642+00'),
	('01a21591-d248-7f3c-b264-e85ced818edb', '2026-11-26 01:56:47.615111+00', '01a21591-d9f2-7d61-b457-c39c1544c7e8', 'before:20', '01a21591-d33a-7e73-b818-ce3e7ad7d2a5', '01a21591-d213-7560-a1e5-06a31945dc79', '01a21591-d487-7bcd-868b-e7fef7496f28', NULL, 'gpt-4o-mini', 1907, 20, 0, 0, 0, 0, 0, 0, NULL, 200, NULL, '/v1/chat/completions', NULL, NULL, false, 0.000298050, 'USD', '01a21591-cfb7-7903-a600-3b63d702b923', 'DEBIT', '2026-11-26 01:56:49.778642+00'),
	('01a21591-d8d2-710a-bb84-b2e9d72a4108', '2026-11-26 01:56:47.615111+00', '01a21591-d9f2-782a-abdf-a32d80e7be15', 'before:21', '01a21591-d8e8-7baf-8ead-29760acfc68c', '01a21591-d8bd-73d6-9922-8f23502c6287', '01a21591-d8f1-7381-94a1-b717452e8ba4', NULL, 'gpt-4o', 2007, 21, 0, 0, 0, 0, 0, 0, NULL, 200, NULL, '/v1/chat/completions', NULL, NULL, false, 0.005227500, 'USD', '01a21591-cfb7-7cf8-bcd0-bcf6e8ee95a3', 'DEBIT', '2026-11-26 01:56:49.778642+00'),
	('01a21591-d248-7f3c-b264-e85ced818edb', '2026-11-26 01:56:47.615111+00', '01a21591-d9f2-7395-827b-97a44bf0241a', 'before:22', '01a21591-d3de-796a-8c93-62b403054b94', '01a21591-d118-75d2-86af-2f09e989170a', '01a21591-d60d-7854-8345-bccb37f8728a', NULL, 'gpt-4.1', 2107, 22, 0, 0, 0, 0, 0, 0, NULL, 200, NULL, '/v1/chat/completions', NULL, NULL, false, 0.004390000, 'USD', '01a21591-cfb7-7b2a-b318-4d3c40fe98d0', 'DEBIT', '2026-11-26 01:56:49.778642+00'),
	('01a21591-d781-72d3-91d4-64e3319ae858', '2026-11-26 01:56:47.615111+00', '01a21591-d9f2-7ee6-9858-3432f7ac951a', 'before:23', '01a21591-d79b-779d-8de9-8cf22b7a54f0', '01a21591-d70a-7da9-bdee-d689cb13d367', '01a21591-d7c4-7a7f-8df5-60277a4dca44', NULL, 'gpt-4o-mini', 2207, 23, 0, 0, 0, 0, 0, 0, NULL, 200, NULL, '/v1/chat/completions', NULL, NULL, false, 0.000344850, 'USD', '01a21591-cfb7-7903-a600-3b63d702b923', 'DEBIT', '2026-11-26 01:56:49.778642+00'),
	('01a21591-d248-7f3c-b264-e85ced818edb', '2026-11-26 01:56:48.615111+00', '01a21591-d9f2-774c-9f48-f840e09a1114', 'before:26', '01a21591-d3bf-7946-a686-4a4c64f29467', '01a21591-d222-7eb2-9ee1-3477e3460383', '01a21591-d5a4-746a-a196-5d57936891a0', NULL, 'gpt-4o', 2507, 26, 0, 0, 0, 0, 0, 0, NULL, 200, NULL, '/v1/chat/completions', NULL, NULL, false, 0.006527500, 'USD', '01a21591-cfb7-7cf8-bcd0-bcf6e8ee95a3', 'DEBIT', '2026-11-26 01:56:49.778642+00'),
	('01a21591-d248-7f3c-b264-e85ced818edb', '2026-11-26 01:56:48.615111+00', '01a21591-d9f2-772c-842d-facc0a678821', 'before:27', '01a21591-d33a-7e73-b818-ce3e7ad7d2a5', '01a21591-d22f-770b-b594-fdd45ba480e3', '01a21591-d4f6-7753-85b7-93dfeac2731a', NULL, 'claude-sonnet-4-20250514', 2607, 27, 0, 0, 0, 0, 0, 0, NULL, 200, NULL, '/v1/chat/completions', NULL, NULL, false, 0.008226000, 'USD', '01a21591-cfb7-7506-b0b7-bc38a9e5a572', 'DEBIT', '2026-11-26 01:56:49.778642+00'),
	('01a21591-d781-72d3-91d4-64e3319ae858', '2026-11-26 01:56:48.615111+00', '01a21591-d9f2-7538-829f-f0a56c9a3b8e', 'before:28', '01a21591-d79b-779d-8de9-8cf22b7a54f0', '01a21591-d6e7-7984-bcf7-f477afc4fdc2', '01a21591-d7bd-7e4b-b261-175db0f1a2a0', NULL, 'gpt-4o', 2707, 28, 0, 0, 0, 0, 0, 0, NULL, 200, NULL, '/v1/chat/completions', NULL, NULL, false, 0.007047500, 'USD', '01a21591-cfb7-7cf8-bcd0-bcf6e8ee95a3', 'DEBIT', '2026-11-26 01:56:49.778642+00'),
	('01a21591-d819-7f2b-9f47-663bd3ad93fd', '2026-11-26 01:56:48.615111+00', '01a21591-d9f2-7355-ac3e-5ff207db95ed', 'before:29', '01a21591-d846-79e8-a575-b04a50e9ece2', '01a21591-d7f6-7e61-9dc3-1d2345b1f59a', '01a21591-d856-71dc-8060-a7bc2e280b7c', NULL, 'gemini-2.5-flash', 2807, 29, 0, 0, 0, 0, 0, 0, NULL, 200, NULL, '/v1/chat/completions', NULL, NULL, false, 0.000914600, 'USD', '01a21591-cfb7-7758-af0e-4abaf1a94d92', 'DEBIT', '2026-11-26 01:56:49.778642+00'),
	('01a21591-d248-7f3c-b264-e85ced818edb', '2026-11-26 01:56:48.615111+00', '01a21591-d9f2-7cfd-94b7-ce37f88ce2b6', 'before:31', '01a21591-d3bf-7946-a686-4a4c64f29467', '01a21591-d222-7eb2-9ee1-3477e3460383', '01a21591-d5a4-746a-a196-5d57936891a0', NULL, 'gemini-2.5-flash', 3007, 31, 0, 0, 0, 0, 0, 0, NULL, 200, NULL, '/v1/chat/completions', NULL, NULL, false, 0.000979600, 'USD', '01a21591-cfb7-7758-af0e-4abaf1a94d92', 'DEBIT', '2026-11-26 01:56:49.778642+00'),
	('01a21591-d248-7f3c-b264-e85ced818edb', '2026-11-26 01:56:48.615111+00', '01a21591-d9f2-7b24-85d5-142e10d3cc96', 'before:32', '01a21591-d3bf-7946-a686-4a4c64f29467', '01a21591-d118-75d2-86af-2f09e989170a', '01a21591-d52d-7d9c-ab34-2496c2cd394d', NULL, 'gemini-2.5-flash', 3107, 32, 0, 0, 0, 0, 0, 0, NULL, 200, NULL, '/v1/chat/completions', NULL, NULL, false, 0.001012100, 'USD', '01a21591-cfb7-7758-af0e-4abaf1a94d92', 'DEBIT', '2026-11-26 01:56:49.778642+00'),
	('01a21591-d248-7f3c-b264-e85ced818edb', '2026-11-26 01:56:49.615111+00', '01a21591-d9f2-71aa-ae69-65520218244e', 'before:33', '01a21591-d33a-7e73-b818-ce3e7ad7d2a5', '01a21591-d22f-770b-b594-fdd45ba480e3', '01a21591-d4f6-7753-85b7-93dfeac2731a', NULL, 'gpt-4o-mini', 3207, 33, 0, 0, 0, 0, 0, 0, NULL, 200, NULL, '/v1/chat/completions', NULL, NULL, false, 0.000500850, 'USD', '01a21591-cfb7-7903-a600-3b63d702b923', 'DEBIT', '2026-11-26 01:56:49.778642+00'),
	('01a21591-d8d2-710a-bb84-b2e9d72a4108', '2026-11-26 01:56:49.615111+00', '01a21591-d9f2-7ea2-8726-748c3f1c49a7', 'before:34', '01a21591-d8e8-7baf-8ead-29760acfc68c', '01a21591-d8bd-73d6-9922-8f23502c6287', '01a21591-d8f1-7381-94a1-b717452e8ba4', NULL, 'gpt-4o-mini', 3307, 34, 0, 0, 0, 0, 0, 0, NULL, 200, NULL, '/v1/chat/completions', NULL, NULL, false, 0.000516450, 'USD', '01a21591-cfb7-7903-a600-3b63d702b923', 'DEBIT', '2026-11-26 01:56:49.778642+00'),
	('01a21591-d248-7f3c-b264-e85ced818edb', '2026-11-26 01:56:49.615111+00', '01a21591-d9f2-7252-ba9b-9575dfd93c55', 'before:35', '01a21591-d33a-7e73-b818-ce3e7ad7d2a5', '01a21591-d118-75d2-86af-2f09e989170a', '01a21591-d40f-7e0b-90ec-8cd6702e09f8', NULL, 'gpt-4o', 3407, 35, 0, 0, 0, 0, 0, 0, NULL, 200, NULL, '/v1/chat/completions', NULL, NULL, false, 0.008867500, 'USD', '01a21591-cfb7-7cf8-bcd0-bcf6e8ee95a3', 'DEBIT', '2026-11-26 01:56:49.778642+00'),
	('01a21591-d781-72d3-91d4-64e3319ae858', '2026-11-26 01:56:49.615111+00', '01a21591-d9f2-7db9-bf97-c8e4d8370234', 'before:36', '01a21591-d79b-779d-8de9-8cf22b7a54f0', '01a21591-d6e7-7984-bcf7-f477afc4fdc2', '01a21591-d7bd-7e4b-b261-175db0f1a2a0', NULL, 'gpt-4o', 3507, 36, 0, 0, 0, 0, 0, 0, NULL, 200, NULL, '/v1/chat/completions', NULL, NULL, false, 0.009127500, 'USD', '01a21591-cfb7-7cf8-bcd0-bcf6e8ee95a3', 'DEBIT', '2026-11-26 01:56:49.778642+00'),
	('01a21591-d781-72d3-91d4-64e3319ae858', '2026-11-26 01:56:49.615111+00', '01a21591-d9f2-72b1-a6cc-d0c7fb2b207a', 'before:37', '01a21591-d79b-779d-8de9-8cf22b7a54f0', '01a21591-d6e7-7984-bcf7-f477afc4fdc2', '01a21591-d7bd-7e4b-b261-175db0f1a2a0', NULL, 'claude-sonnet-4-20250514', 3607, 37, 0, 0, 0, 0, 0, 0, NULL, 200, NULL, '/v1/chat/completions', NULL, NULL, false, 0.011376000, 'USD', '01a21591-cfb7-7506-b0b7-bc38a9e5a572', 'DEBIT', '2026-11-26 01:56:49.778642+00'),
	('01a21591-d248-7f3c-b264-e85ced818edb', '2026-11-26 01:56:49.615111+00', '01a21591-d9f2-70d5-ae5f-f45e9227065a', 'before:38', '01a21591-d33a-7e73-b818-ce3e7ad7d2a5', '01a21591-d213-7560-a1e5-06a31945dc79', '01a21591-d487-7bcd-868b-e7fef7496f28', NULL, 'gemini-2.5-flash', 3707, 38, 0, 0, 0, 0, 0, 0, NULL, 200, NULL, '/v1/chat/completions', NULL, NULL, false, 0.001207100, 'USD', '01a21591-cfb7-7758-af0e-4abaf1a94d92', 'DEBIT', '2026-11-26 01:56:49.778642+00'),
	('01a21591-d92d-7608-b484-8558c02f4cd8', '2026-11-26 01:56:49.615111+00', '01a21591-d9f2-7edd-8870-a7c18a7e5a0d', 'before:39', '01a21591-d939-72c4-b21e-4c7e3f1b8304', '01a21591-d923-7fb8-9aac-3d6bce21fb2c', '01a21591-d941-79e0-87b0-0503f7bd6baa', NULL, 'gemini-2.5-flash', 3807, 39, 0, 0, 0, 0, 0, 0, NULL, 200, NULL, '/v1/chat/completions', NULL, NULL, false, 0.001239600, 'USD', '01a21591-cfb7-7758-af0e-4abaf1a94d92', 'DEBIT', '2026-11-26 01:56:49.778642+00'),
	('01a21591-d781-72d3-91d4-64e3319ae858', '2026-11-26 01:56:48.615111+00', '01a21591-d9f2-76b1-bbc4-70f8838a1c4f', 'before:25', '01a21591-d797-7585-a0ba-1fe5092330d0', '01a21591-d70a-7da9-bdee-d689cb13d367', '01a21591-d7aa-72ee-a6e7-55ab62cf9a0f', NULL, 'gpt-4o-mini', 2407, 25, 0, 0, 0, 0, 0, 0, NULL, 200, NULL, '/v1/chat/completions', NULL, NULL, false, 0.000376050, 'USD', '01a21591-cfb7-7903-a600-3b63d702b923', 'DEBIT', '2026-11-26 01:56:49.778642+00'),
	('01a21591-d781-72d3-91d4-64e3319ae858', '2026-11-26 01:56:49.615111+00', '01a21591-d9f2-746f-bfb1-aa86e6215331', 'before:40', '01a21591-d797-7585-a0ba-1fe5092330d0', '01a21591-d70a-7da9-bdee-d689cb13d367', '01a21591-d7aa-72ee-a6e7-55ab62cf9a0f', NULL, 'gpt-4o-mini', 3907, 40, 0, 0, 0, 0, 0, 0, NULL, 200, NULL, '/v1/chat/completions', NULL, NULL, false, 0.000610050, 'USD', '01a21591-cfb7-7903-a600-3b63d702b923', 'DEBIT', '2026-11-26 01:56:49.778642+00'),
	('01a21591-d248-7f3c-b264-e85ced818edb', '2026-11-26 01:56:47.615111+00', '01a21591-d9f2-72bc-88f8-21e44176652a', 'before:24', '01a21591-d33a-7e73-b818-ce3e7ad7d2a5', '01a21591-d118-75d2-86af-2f09e989170a', '01a21591-d40f-7e0b-90ec-8cd6702e09f8', NULL, 'gpt-4o-mini', 2307, 24, 0, 0, 0, 0, 0, 0, NULL, 200, NULL, '/v1/chat/completions', NULL, NULL, false, 0.000360450, 'USD', '01a21591-cfb7-7903-a600-3b63d702b923', 'DEBIT', '2026-11-26 01:56:49.778642+00'),
	('01a21591-d819-7f2b-9f47-663bd3ad93fd', '2026-11-26 01:56:45.615111+00', '01a21591-da35-7ec0-b657-b6726a730c65', 'before:3', '01a21591-d846-79e8-a575-b04a50e9ece2', '01a21591-d80e-745d-ac07-53d80081eca3', '01a21591-d879-790b-8a70-72ab6866c4fc', NULL, 'gpt-4o', 207, 3, 0, 0, 0, 0, 0, 0, NULL, 200, NULL, '/v1/chat/completions', NULL, NULL, false, 0.000547500, 'USD', '01a21591-cfb7-7cf8-bcd0-bcf6e8ee95a3', 'CAPTURE', '2026-11-26 01:56:49.845914+00'),
	('01a21591-d248-7f3c-b264-e85ced818edb', '2026-11-26 01:56:48.615111+00', '01a21591-da51-72ea-9360-9a6d0e97c4f6', 'before:30', '01a21591-d3bf-7946-a686-4a4c64f29467', '01a21591-d213-7560-a1e5-06a31945dc79', '01a21591-d563-7f01-aa8b-4c390d9a6b42', NULL, 'gpt-4o', 2907, 30, 0, 0, 0, 0, 0, 0, NULL, 200, NULL, '/v1/chat/completions', NULL, NULL, false, 0.007567500, 'USD', '01a21591-cfb7-7cf8-bcd0-bcf6e8ee95a3', 'CAPTURE', '2026-11-26 01:56:49.873493+00'),
	('01a21591-dc2c-769a-824b-3114acd37b48', '2026-11-26 01:56:50.571257+00', '01a21591-dd0b-74aa-b7d5-065cbcfa6352', 'call-settled', NULL, NULL, NULL, NULL, 'swift-1', 1200, 345, 0, 0, 0, 0, 0, 0, NULL, NULL, NULL, NULL, NULL, NULL, false, 0.005850000, 'USD', '01a21591-dc41-71b6-8645-0a83f2393166', 'CAPTURE', '2026-11-26 01:56:50.571434+00'),
	('01a21591-dc2c-769a-824b-3114acd37b48', '2026-11-26 01:56:50.60705+00', '01a21591-dd2f-787c-9cc2-b5f16f4874d8', 'recorded', NULL, NULL, NULL, NULL, 'swift-1', 1000, 200, 0, 0, 0, 0, 0, 0, NULL, NULL, NULL, NULL, NULL, NULL, false, 0.004000000, 'USD', '01a21591-dc41-71b6-8645-0a83f2393166', 'DEBIT', '2026-11-26 01:56:50.607153+00'),
	('01a21591-dc2c-769a-824b-3114acd37b48', '2026-11-26 01:56:50.680996+00', '01a21591-dd7a-72f8-ad35-7e9c2785fd6b', 'unpriced', NULL, NULL, NULL, NULL, 'unknown-model', 1000, 200, 0, 0, 0, 0, 0, 0, NULL, NULL, NULL, NULL, NULL, NULL, false, NULL, NULL, NULL, NULL, '2026-11-26 01:56:50.681099+00'),
	('01a21591-dc36-70e6-b96b-67e2f6bfa593', '2026-11-26 01:56:50.686369+00', '01a21591-dd81-7b25-8560-e81f1ab0721e', 'refused', NULL, NULL, NULL, NULL, 'swift-1', 1000, 200, 0, 0, 0, 0, 0, 0, NULL, NULL, NULL, NULL, NULL, NULL, false, 0.006000000, 'USD', '01a21591-dc14-7275-8284-130e3e25f58f', 'DEBIT', '2026-11-26 01:56:50.689841+00'),
	('01a21591-dc36-70e6-b96b-67e2f6bfa593', '2026-11-26 01:56:50.707008+00', '01a21591-dd93-7929-a772-4d722b0f76ad', 'set-aside', NULL, NULL, NULL, NULL, 'swift-1', 1000, 200, 0, 0, 0, 0, 0, 0, NULL, NULL, NULL, NULL, NULL, NULL, false, 0.006000000, 'USD', '01a21591-dc14-7275-8284-130e3e25f58f', 'DEBIT', '2026-11-26 01:56:50.707097+00'),
	('01a21591-dc2c-769a-824b-3114acd37b48', '2026-11-26 01:56:50.725226+00', '01a21591-dda5-7ae2-b643-1c74d6d9de60', 'pending-0', NULL, NULL, NULL, NULL, 'swift-1', 1000, 200, 0, 0, 0, 0, 0, 0, NULL, NULL, NULL, NULL, NULL, NULL, false, 0.004000000, 'USD', '01a21591-dc41-71b6-8645-0a83f2393166', 'DEBIT', '2026-11-26 01:56:50.725461+00'),
	('01a21591-dc2c-769a-824b-3114acd37b48', '2026-11-26 01:56:53.74488+00', '01a21591-e972-7787-8ebc-a1f3f46e5a9b', 'pending-1', NULL, NULL, NULL, NULL, 'swift-1', 1000, 200, 0, 0, 0, 0, 0, 0, NULL, NULL, NULL, NULL, NULL, NULL, false, 0.004000000, 'USD', '01a21591-dc41-71b6-8645-0a83f2393166', 'DEBIT', '2026-11-26 01:56:53.746325+00'),
	('01a21591-dc2c-769a-824b-3114acd37b48', '2026-11-26 01:56:53.749157+00', '01a21591-e975-7898-9a8d-8a3f485e1f26', 'pending-2', NULL, NULL, NULL, NULL, 'swift-1', 1000, 200, 0, 0, 0, 0, 0, 0, NULL, NULL, NULL, NULL, NULL, NULL, false, 0.004000000, 'USD', '01a21591-dc41-71b6-8645-0a83f2393166', 'DEBIT', '2026-11-26 01:56:53.749264+00');
INSERT INTO metering.usage_records_default VALUES
	('01a21591-dc2c-769a-824b-3114acd37b48', '2024-05-05 00:00:00+00', '01a21591-dd5b-75b1-b8cc-ecca136086e6', 'long-ago', NULL, NULL, NULL, NULL, 'swift-1', 1000, 200, 0, 0, 0, 0, 0, 0, NULL, NULL, NULL, NULL, NULL, NULL, false, 0.004000000, 'USD', '01a21591-dc41-71b6-8645-0a83f2393166', 'DEBIT', '2026-11-26 01:56:50.65102+00');
ALTER TABLE ONLY billing.accounts
    ADD CONSTRAINT accounts_owner_currency_once UNIQUE (organization_id, owner_id, currency_code);
ALTER TABLE ONLY billing.accounts
    ADD CONSTRAINT accounts_pkey PRIMARY KEY (organization_id, account_id);
ALTER TABLE ONLY billing.alembic_version
    ADD CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num);
ALTER TABLE ONLY billing.audit_events
    ADD CONSTRAINT audit_events_pkey PRIMARY KEY (organization_id, sequence);
ALTER TABLE ONLY billing.audit_heads
    ADD CONSTRAINT audit_heads_pkey PRIMARY KEY (organization_id);
ALTER TABLE ONLY billing.declines
    ADD CONSTRAINT declines_operation_once PRIMARY KEY (organization_id, operation_id, slot);
ALTER TABLE ONLY billing.holds
    ADD CONSTRAINT holds_operation_once PRIMARY KEY (organization_id, operation_id);
ALTER TABLE ONLY billing.transactions
    ADD CONSTRAINT transactions_operation_once PRIMARY KEY (organization_id, operation_id);
ALTER TABLE ONLY billing.transactions
    ADD CONSTRAINT transactions_sequence_once UNIQUE (organization_id, account_id, sequence);
ALTER TABLE ONLY billing.transactions
    ADD CONSTRAINT transactions_transaction_once UNIQUE (organization_id, transaction_id);
ALTER TABLE ONLY identity.alembic_version
    ADD CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num);
ALTER TABLE ONLY identity.api_keys
    ADD CONSTRAINT api_keys_digest_once UNIQUE (digest);
ALTER TABLE ONLY identity.api_keys
    ADD CONSTRAINT api_keys_id_once UNIQUE (api_key_id);
ALTER TABLE ONLY identity.api_keys
    ADD CONSTRAINT api_keys_pkey PRIMARY KEY (organization_id, api_key_id);
ALTER TABLE ONLY identity.audit_events
    ADD CONSTRAINT audit_events_pkey PRIMARY KEY (organization_id, sequence);
ALTER TABLE ONLY identity.audit_heads
    ADD CONSTRAINT audit_heads_pkey PRIMARY KEY (organization_id);
ALTER TABLE ONLY identity.imported_prefixes
    ADD CONSTRAINT imported_prefixes_pkey PRIMARY KEY (prefix);
ALTER TABLE ONLY identity.invitations
    ADD CONSTRAINT invitations_digest_once UNIQUE (digest);
ALTER TABLE ONLY identity.invitations
    ADD CONSTRAINT invitations_pkey PRIMARY KEY (organization_id, invitation_id);
ALTER TABLE ONLY identity.key_changes
    ADD CONSTRAINT key_changes_pkey PRIMARY KEY (revision);
ALTER TABLE ONLY identity.linked_identities
    ADD CONSTRAINT linked_identities_pkey PRIMARY KEY (provider, subject);
ALTER TABLE ONLY identity.members
    ADD CONSTRAINT members_pkey PRIMARY KEY (organization_id, user_id);
ALTER TABLE ONLY identity.organizations
    ADD CONSTRAINT organizations_pkey PRIMARY KEY (organization_id);
ALTER TABLE ONLY identity.project_members
    ADD CONSTRAINT project_members_pkey PRIMARY KEY (organization_id, project_id, user_id);
ALTER TABLE ONLY identity.projects
    ADD CONSTRAINT projects_pkey PRIMARY KEY (organization_id, project_id);
ALTER TABLE ONLY identity.refresh_tokens
    ADD CONSTRAINT refresh_tokens_pkey PRIMARY KEY (digest);
ALTER TABLE ONLY identity.requests
    ADD CONSTRAINT requests_pkey PRIMARY KEY (organization_id, method, request_id);
ALTER TABLE ONLY identity.revision_counter
    ADD CONSTRAINT revision_counter_pkey PRIMARY KEY (single);
ALTER TABLE ONLY identity.service_accounts
    ADD CONSTRAINT service_accounts_id_once UNIQUE (service_account_id);
ALTER TABLE ONLY identity.service_accounts
    ADD CONSTRAINT service_accounts_pkey PRIMARY KEY (organization_id, service_account_id);
ALTER TABLE ONLY identity.sessions
    ADD CONSTRAINT sessions_pkey PRIMARY KEY (session_id);
ALTER TABLE ONLY identity.sign_in_attempts
    ADD CONSTRAINT sign_in_attempts_pkey PRIMARY KEY (key_digest);
ALTER TABLE ONLY identity.system_configurations
    ADD CONSTRAINT system_configurations_pkey PRIMARY KEY (single);
ALTER TABLE ONLY identity.user_configurations
    ADD CONSTRAINT user_configurations_pkey PRIMARY KEY (user_id);
ALTER TABLE ONLY identity.users
    ADD CONSTRAINT users_pkey PRIMARY KEY (user_id);
ALTER TABLE ONLY metering.alembic_version
    ADD CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num);
ALTER TABLE ONLY metering.audit_events
    ADD CONSTRAINT audit_events_pkey PRIMARY KEY (organization_id, sequence);
ALTER TABLE ONLY metering.audit_heads
    ADD CONSTRAINT audit_heads_pkey PRIMARY KEY (organization_id);
ALTER TABLE ONLY metering.authorizations
    ADD CONSTRAINT authorizations_pkey PRIMARY KEY (organization_id, operation_id);
ALTER TABLE ONLY metering.catalogue_requests
    ADD CONSTRAINT catalogue_requests_pkey PRIMARY KEY (request_id);
ALTER TABLE ONLY metering.catalogue_state
    ADD CONSTRAINT catalogue_state_pkey PRIMARY KEY (singleton);
ALTER TABLE ONLY metering.models
    ADD CONSTRAINT models_pkey PRIMARY KEY (model_id);
ALTER TABLE ONLY metering.outbox
    ADD CONSTRAINT outbox_pkey PRIMARY KEY (organization_id, operation_id);
ALTER TABLE ONLY metering.price_versions
    ADD CONSTRAINT price_versions_one_at_a_time UNIQUE NULLS NOT DISTINCT (organization_id, model_id, effective_time);
ALTER TABLE ONLY metering.price_versions
    ADD CONSTRAINT price_versions_pkey PRIMARY KEY (price_version_id);
ALTER TABLE ONLY metering.unpriced_usages
    ADD CONSTRAINT unpriced_usages_pkey PRIMARY KEY (organization_id, usage_id);
ALTER TABLE ONLY metering.usage_hours
    ADD CONSTRAINT usage_hours_pkey PRIMARY KEY (organization_id, hour, model, project_id, user_id, api_key_id, currency_code);
ALTER TABLE ONLY metering.usage_operations
    ADD CONSTRAINT usage_operations_pkey PRIMARY KEY (organization_id, operation_id);
ALTER TABLE ONLY metering.usage_pricings
    ADD CONSTRAINT usage_pricings_pkey PRIMARY KEY (organization_id, usage_id);
ALTER TABLE ONLY metering.usage_records
    ADD CONSTRAINT usage_records_pkey PRIMARY KEY (organization_id, occur_time, usage_id);
ALTER TABLE ONLY metering.usage_records_2026_09
    ADD CONSTRAINT usage_records_2026_09_pkey PRIMARY KEY (organization_id, occur_time, usage_id);
ALTER TABLE ONLY metering.usage_records_2026_10
    ADD CONSTRAINT usage_records_2026_10_pkey PRIMARY KEY (organization_id, occur_time, usage_id);
ALTER TABLE ONLY metering.usage_records_2026_11
    ADD CONSTRAINT usage_records_2026_11_pkey PRIMARY KEY (organization_id, occur_time, usage_id);
ALTER TABLE ONLY metering.usage_records_2026_12
    ADD CONSTRAINT usage_records_2026_12_pkey PRIMARY KEY (organization_id, occur_time, usage_id);
ALTER TABLE ONLY metering.usage_records_2027_01
    ADD CONSTRAINT usage_records_2027_01_pkey PRIMARY KEY (organization_id, occur_time, usage_id);
ALTER TABLE ONLY metering.usage_records_2027_02
    ADD CONSTRAINT usage_records_2027_02_pkey PRIMARY KEY (organization_id, occur_time, usage_id);
ALTER TABLE ONLY metering.usage_records_default
    ADD CONSTRAINT usage_records_default_pkey PRIMARY KEY (organization_id, occur_time, usage_id);
CREATE UNIQUE INDEX accounts_request_once ON billing.accounts USING btree (organization_id, request_id) WHERE (request_id IS NOT NULL);
CREATE INDEX audit_events_by_action ON billing.audit_events USING btree (organization_id, action, sequence);
CREATE INDEX audit_events_by_actor ON billing.audit_events USING btree (organization_id, actor, sequence);
CREATE INDEX audit_events_by_resource ON billing.audit_events USING btree (organization_id, resource_type, resource_id, sequence);
CREATE INDEX audit_events_by_time ON billing.audit_events USING btree (organization_id, event_time, sequence);
CREATE INDEX holds_open ON billing.holds USING btree (organization_id, account_id, expire_time) WHERE (state = 'OPEN'::text);
CREATE UNIQUE INDEX transactions_counter_sequence_once ON billing.transactions USING btree (organization_id, counter_account_id, counter_sequence) WHERE (counter_account_id IS NOT NULL);
CREATE INDEX transactions_reverses ON billing.transactions USING btree (organization_id, reverses_transaction_id) WHERE (reverses_transaction_id IS NOT NULL);
CREATE INDEX api_keys_by_environment ON identity.api_keys USING btree (organization_id, environment, api_key_id);
CREATE INDEX api_keys_by_external_id ON identity.api_keys USING btree (organization_id, external_id, api_key_id) WHERE (external_id <> ''::text);
CREATE INDEX api_keys_by_project ON identity.api_keys USING btree (organization_id, project_id, api_key_id);
CREATE INDEX api_keys_by_service_account ON identity.api_keys USING btree (organization_id, service_account_id, api_key_id) WHERE (service_account_id IS NOT NULL);
CREATE INDEX api_keys_by_user ON identity.api_keys USING btree (user_id, organization_id, api_key_id);
CREATE INDEX audit_events_by_action ON identity.audit_events USING btree (organization_id, action, sequence);
CREATE INDEX audit_events_by_actor ON identity.audit_events USING btree (organization_id, actor, sequence);
CREATE INDEX audit_events_by_resource ON identity.audit_events USING btree (organization_id, resource_type, resource_id, sequence);
CREATE INDEX audit_events_by_time ON identity.audit_events USING btree (organization_id, event_time, sequence);
CREATE INDEX invitations_by_accepted_user ON identity.invitations USING btree (accepted_user_id) WHERE (accepted_user_id IS NOT NULL);
CREATE INDEX invitations_by_email ON identity.invitations USING btree (email_folded);
CREATE INDEX invitations_by_expire_time ON identity.invitations USING btree (expire_time);
CREATE UNIQUE INDEX invitations_email_once ON identity.invitations USING btree (organization_id, email_folded) WHERE ((accept_time IS NULL) AND (revoke_time IS NULL));
CREATE INDEX invitations_open ON identity.invitations USING btree (organization_id, invitation_id) WHERE ((accept_time IS NULL) AND (revoke_time IS NULL));
CREATE INDEX invitations_open_by_inviter ON identity.invitations USING btree (inviter) WHERE ((accept_time IS NULL) AND (revoke_time IS NULL));
CREATE INDEX key_changes_by_time ON identity.key_changes USING btree (change_time);
CREATE INDEX linked_identities_by_user ON identity.linked_identities USING btree (user_id);
CREATE INDEX members_by_user ON identity.members USING btree (user_id, organization_id);
CREATE UNIQUE INDEX organizations_external_id_once ON identity.organizations USING btree (external_id) WHERE ((external_id <> ''::text) AND (delete_time IS NULL));
CREATE INDEX project_members_by_member ON identity.project_members USING btree (organization_id, user_id);
CREATE INDEX project_members_by_user ON identity.project_members USING btree (user_id);
CREATE UNIQUE INDEX projects_external_id_once ON identity.projects USING btree (organization_id, external_id) WHERE ((external_id <> ''::text) AND (delete_time IS NULL));
CREATE UNIQUE INDEX projects_name_once ON identity.projects USING btree (organization_id, name_folded) WHERE (delete_time IS NULL);
CREATE INDEX refresh_tokens_by_expire_time ON identity.refresh_tokens USING btree (expire_time);
CREATE INDEX refresh_tokens_by_session ON identity.refresh_tokens USING btree (session_id);
CREATE INDEX requests_by_time ON identity.requests USING btree (create_time);
CREATE UNIQUE INDEX service_accounts_external_id_once ON identity.service_accounts USING btree (organization_id, external_id) WHERE ((external_id <> ''::text) AND (delete_time IS NULL));
CREATE UNIQUE INDEX service_accounts_name_once ON identity.service_accounts USING btree (organization_id, name_folded) WHERE (delete_time IS NULL);
CREATE INDEX sessions_by_expire_time ON identity.sessions USING btree (expire_time);
CREATE INDEX sessions_ended_by_user ON identity.sessions USING btree (user_id) WHERE (end_time IS NOT NULL);
CREATE INDEX sessions_not_ended_by_user ON identity.sessions USING btree (user_id, session_id) WHERE (end_time IS NULL);
CREATE INDEX sign_in_attempts_by_window ON identity.sign_in_attempts USING btree (window_time);
CREATE INDEX users_by_last_sign_in ON identity.users USING btree (last_sign_in_time);
CREATE UNIQUE INDEX users_email_once ON identity.users USING btree (email_folded) WHERE (delete_time IS NULL);
CREATE UNIQUE INDEX users_external_id_once ON identity.users USING btree (external_id) WHERE ((external_id <> ''::text) AND (delete_time IS NULL));
CREATE INDEX users_inactive ON identity.users USING btree (user_id) WHERE ((deactivate_time IS NOT NULL) AND (delete_time IS NULL));
CREATE UNIQUE INDEX users_personal_organization_once ON identity.users USING btree (personal_organization_id);
CREATE UNIQUE INDEX users_username_once ON identity.users USING btree (username_folded) WHERE (delete_time IS NULL);
CREATE INDEX audit_events_by_action ON metering.audit_events USING btree (organization_id, action, sequence);
CREATE INDEX audit_events_by_actor ON metering.audit_events USING btree (organization_id, actor, sequence);
CREATE INDEX audit_events_by_resource ON metering.audit_events USING btree (organization_id, resource_type, resource_id, sequence);
CREATE INDEX audit_events_by_time ON metering.audit_events USING btree (organization_id, event_time, sequence);
CREATE INDEX models_changes ON metering.models USING btree (revision);
CREATE INDEX price_versions_changes ON metering.price_versions USING btree (revision);
ALTER INDEX metering.usage_records_pkey ATTACH PARTITION metering.usage_records_2026_09_pkey;
ALTER INDEX metering.usage_records_pkey ATTACH PARTITION metering.usage_records_2026_10_pkey;
ALTER INDEX metering.usage_records_pkey ATTACH PARTITION metering.usage_records_2026_11_pkey;
ALTER INDEX metering.usage_records_pkey ATTACH PARTITION metering.usage_records_2026_12_pkey;
ALTER INDEX metering.usage_records_pkey ATTACH PARTITION metering.usage_records_2027_01_pkey;
ALTER INDEX metering.usage_records_pkey ATTACH PARTITION metering.usage_records_2027_02_pkey;
ALTER INDEX metering.usage_records_pkey ATTACH PARTITION metering.usage_records_default_pkey;
ALTER TABLE ONLY identity.api_keys
    ADD CONSTRAINT api_keys_organization FOREIGN KEY (organization_id) REFERENCES identity.organizations(organization_id);
ALTER TABLE ONLY identity.api_keys
    ADD CONSTRAINT api_keys_project_of_organization FOREIGN KEY (organization_id, project_id) REFERENCES identity.projects(organization_id, project_id);
ALTER TABLE ONLY identity.api_keys
    ADD CONSTRAINT api_keys_service_account FOREIGN KEY (organization_id, service_account_id) REFERENCES identity.service_accounts(organization_id, service_account_id);
ALTER TABLE ONLY identity.api_keys
    ADD CONSTRAINT api_keys_user FOREIGN KEY (user_id) REFERENCES identity.users(user_id);
ALTER TABLE ONLY identity.invitations
    ADD CONSTRAINT invitations_organization FOREIGN KEY (organization_id) REFERENCES identity.organizations(organization_id);
ALTER TABLE ONLY identity.invitations
    ADD CONSTRAINT invitations_user FOREIGN KEY (accepted_user_id) REFERENCES identity.users(user_id);
ALTER TABLE ONLY identity.linked_identities
    ADD CONSTRAINT linked_identities_user FOREIGN KEY (user_id) REFERENCES identity.users(user_id);
ALTER TABLE ONLY identity.members
    ADD CONSTRAINT members_organization FOREIGN KEY (organization_id) REFERENCES identity.organizations(organization_id);
ALTER TABLE ONLY identity.members
    ADD CONSTRAINT members_user FOREIGN KEY (user_id) REFERENCES identity.users(user_id);
ALTER TABLE ONLY identity.project_members
    ADD CONSTRAINT project_members_member FOREIGN KEY (organization_id, user_id) REFERENCES identity.members(organization_id, user_id);
ALTER TABLE ONLY identity.project_members
    ADD CONSTRAINT project_members_project FOREIGN KEY (organization_id, project_id) REFERENCES identity.projects(organization_id, project_id);
ALTER TABLE ONLY identity.projects
    ADD CONSTRAINT projects_organization FOREIGN KEY (organization_id) REFERENCES identity.organizations(organization_id);
ALTER TABLE ONLY identity.refresh_tokens
    ADD CONSTRAINT refresh_tokens_session FOREIGN KEY (session_id) REFERENCES identity.sessions(session_id);
ALTER TABLE ONLY identity.service_accounts
    ADD CONSTRAINT service_accounts_organization FOREIGN KEY (organization_id) REFERENCES identity.organizations(organization_id);
ALTER TABLE ONLY identity.sessions
    ADD CONSTRAINT sessions_user FOREIGN KEY (user_id) REFERENCES identity.users(user_id);
ALTER TABLE ONLY identity.user_configurations
    ADD CONSTRAINT user_configurations_user FOREIGN KEY (user_id) REFERENCES identity.users(user_id);
ALTER TABLE ONLY identity.users
    ADD CONSTRAINT users_last_selected_organization FOREIGN KEY (last_selected_organization_id) REFERENCES identity.organizations(organization_id);
ALTER TABLE ONLY identity.users
    ADD CONSTRAINT users_last_selected_project FOREIGN KEY (last_selected_organization_id, last_selected_project_id) REFERENCES identity.projects(organization_id, project_id);
ALTER TABLE ONLY identity.users
    ADD CONSTRAINT users_personal_organization FOREIGN KEY (personal_organization_id) REFERENCES identity.organizations(organization_id);
ALTER TABLE ONLY metering.price_versions
    ADD CONSTRAINT price_versions_model_known FOREIGN KEY (model_id) REFERENCES metering.models(model_id);
GRANT USAGE ON SCHEMA billing TO tollhouse_billing;
GRANT USAGE ON SCHEMA identity TO tollhouse_identity;
GRANT USAGE ON SCHEMA metering TO tollhouse_metering;
REVOKE USAGE ON SCHEMA public FROM PUBLIC;
REVOKE ALL ON FUNCTION metering.ensure_usage_month(moment timestamp with time zone) FROM PUBLIC;
GRANT ALL ON FUNCTION metering.ensure_usage_month(moment timestamp with time zone) TO tollhouse_metering;
GRANT SELECT,INSERT,UPDATE ON TABLE billing.accounts TO tollhouse_billing;
GRANT SELECT ON TABLE billing.alembic_version TO tollhouse_billing;
GRANT SELECT,INSERT ON TABLE billing.audit_events TO tollhouse_billing;
GRANT SELECT,INSERT,UPDATE ON TABLE billing.audit_heads TO tollhouse_billing;
GRANT SELECT,INSERT ON TABLE billing.declines TO tollhouse_billing;
GRANT SELECT,INSERT,UPDATE ON TABLE billing.holds TO tollhouse_billing;
GRANT SELECT,INSERT ON TABLE billing.transactions TO tollhouse_billing;
GRANT SELECT ON TABLE identity.alembic_version TO tollhouse_identity;
GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE identity.api_keys TO tollhouse_identity;
GRANT SELECT,INSERT ON TABLE identity.audit_events TO tollhouse_identity;
GRANT SELECT,INSERT,UPDATE ON TABLE identity.audit_heads TO tollhouse_identity;
GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE identity.imported_prefixes TO tollhouse_identity;
GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE identity.invitations TO tollhouse_identity;
GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE identity.key_changes TO tollhouse_identity;
GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE identity.linked_identities TO tollhouse_identity;
GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE identity.members TO tollhouse_identity;
GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE identity.organizations TO tollhouse_identity;
GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE identity.project_members TO tollhouse_identity;
GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE identity.projects TO tollhouse_identity;
GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE identity.refresh_tokens TO tollhouse_identity;
GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE identity.requests TO tollhouse_identity;
GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE identity.revision_counter TO tollhouse_identity;
GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE identity.service_accounts TO tollhouse_identity;
GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE identity.sessions TO tollhouse_identity;
GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE identity.sign_in_attempts TO tollhouse_identity;
GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE identity.system_configurations TO tollhouse_identity;
GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE identity.user_configurations TO tollhouse_identity;
GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE identity.users TO tollhouse_identity;
GRANT SELECT ON TABLE metering.alembic_version TO tollhouse_metering;
GRANT SELECT,INSERT ON TABLE metering.audit_events TO tollhouse_metering;
GRANT SELECT,INSERT,UPDATE ON TABLE metering.audit_heads TO tollhouse_metering;
GRANT SELECT,INSERT,UPDATE ON TABLE metering.authorizations TO tollhouse_metering;
GRANT SELECT,INSERT ON TABLE metering.catalogue_requests TO tollhouse_metering;
GRANT SELECT,UPDATE ON TABLE metering.catalogue_state TO tollhouse_metering;
GRANT SELECT,INSERT,UPDATE ON TABLE metering.models TO tollhouse_metering;
GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE metering.outbox TO tollhouse_metering;
GRANT SELECT,INSERT ON TABLE metering.price_versions TO tollhouse_metering;
GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE metering.unpriced_usages TO tollhouse_metering;
GRANT SELECT,INSERT,UPDATE ON TABLE metering.usage_hours TO tollhouse_metering;
GRANT SELECT,INSERT ON TABLE metering.usage_operations TO tollhouse_metering;
GRANT SELECT,INSERT ON TABLE metering.usage_pricings TO tollhouse_metering;
GRANT SELECT,INSERT ON TABLE metering.usage_records TO tollhouse_metering;
GRANT SELECT,INSERT ON TABLE metering.usage_records_2026_09 TO tollhouse_metering;
GRANT SELECT,INSERT ON TABLE metering.usage_records_2026_10 TO tollhouse_metering;
GRANT SELECT,INSERT ON TABLE metering.usage_records_2026_11 TO tollhouse_metering;
GRANT SELECT,INSERT ON TABLE metering.usage_records_2026_12 TO tollhouse_metering;
GRANT SELECT,INSERT ON TABLE metering.usage_records_2027_01 TO tollhouse_metering;
GRANT SELECT,INSERT ON TABLE metering.usage_records_2027_02 TO tollhouse_metering;
GRANT SELECT,INSERT ON TABLE metering.usage_records_default TO tollhouse_metering;
ALTER DEFAULT PRIVILEGES IN SCHEMA billing GRANT SELECT,USAGE ON SEQUENCES TO tollhouse_billing;
ALTER DEFAULT PRIVILEGES IN SCHEMA billing GRANT ALL ON FUNCTIONS TO tollhouse_billing;
ALTER DEFAULT PRIVILEGES IN SCHEMA billing GRANT SELECT,INSERT,DELETE,UPDATE ON TABLES TO tollhouse_billing;
ALTER DEFAULT PRIVILEGES IN SCHEMA identity GRANT SELECT,USAGE ON SEQUENCES TO tollhouse_identity;
ALTER DEFAULT PRIVILEGES IN SCHEMA identity GRANT ALL ON FUNCTIONS TO tollhouse_identity;
ALTER DEFAULT PRIVILEGES IN SCHEMA identity GRANT SELECT,INSERT,DELETE,UPDATE ON TABLES TO tollhouse_identity;
ALTER DEFAULT PRIVILEGES IN SCHEMA metering GRANT SELECT,USAGE ON SEQUENCES TO tollhouse_metering;
ALTER DEFAULT PRIVILEGES IN SCHEMA metering GRANT ALL ON FUNCTIONS TO tollhouse_metering;
ALTER DEFAULT PRIVILEGES IN SCHEMA metering GRANT SELECT,INSERT,DELETE,UPDATE ON TABLES TO tollhouse_metering;
