"""Identity, as its callers and its keepers meet it."""
