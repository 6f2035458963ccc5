"""The authorization matrix: every caller, RPC and resource, made from the descriptors, tested on an installation."""
