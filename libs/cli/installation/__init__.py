"""What `up`, `serve` and `migrate` start and keep: processes, Postgres, keys, certificates and settings."""
