-- Prepares a Postgres 15 to 18 for Tollhouse: run it once with psql as a superuser, before the first migration.
--
--   TOLLHOUSE_OWNER_PASSWORD=… TOLLHOUSE_IDENTITY_PASSWORD=… TOLLHOUSE_BILLING_PASSWORD=… \
--   TOLLHOUSE_METERING_PASSWORD=… psql --file deploy/roles.sql
--
-- Four roles, none of them a superuser. tollhouse_owner owns the database and every schema, those of the shards too, and
-- runs the migrations, which make the schemas; each service logs in as a role of its own, to which the migrations give
-- rights on its own schemas only. Running the
-- file again changes the passwords and nothing else.

\set ON_ERROR_STOP on
\set QUIET on

\set database tollhouse
\getenv database TOLLHOUSE_DATABASE
\getenv owner_password TOLLHOUSE_OWNER_PASSWORD
\getenv identity_password TOLLHOUSE_IDENTITY_PASSWORD
\getenv billing_password TOLLHOUSE_BILLING_PASSWORD
\getenv metering_password TOLLHOUSE_METERING_PASSWORD

SELECT format('CREATE ROLE %I LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOINHERIT', name)
FROM unnest(ARRAY['tollhouse_owner', 'tollhouse_identity', 'tollhouse_billing', 'tollhouse_metering']) AS name
WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = name)
\gexec

-- Passwords must not reach the server's log, whatever it is set to record.
SET log_statement = 'none';
SET log_min_duration_statement = -1;
SET log_min_error_statement = 'panic';
ALTER ROLE tollhouse_owner PASSWORD :'owner_password';
ALTER ROLE tollhouse_identity PASSWORD :'identity_password';
ALTER ROLE tollhouse_billing PASSWORD :'billing_password';
ALTER ROLE tollhouse_metering PASSWORD :'metering_password';

SELECT format('CREATE DATABASE %I OWNER tollhouse_owner TEMPLATE template0 ENCODING ''UTF8''', :'database')
WHERE NOT EXISTS (SELECT FROM pg_database WHERE datname = :'database')
\gexec

REVOKE ALL ON DATABASE :"database" FROM PUBLIC;
GRANT CONNECT ON DATABASE :"database" TO tollhouse_identity, tollhouse_billing, tollhouse_metering;

\connect :database
REVOKE ALL ON SCHEMA public FROM PUBLIC;
