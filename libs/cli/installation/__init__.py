"""Starting and keeping what an installation consists of: processes, Postgres, keys, certificates and settings."""
