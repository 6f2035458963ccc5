"""The service billing follows: identity, for organizations."""
