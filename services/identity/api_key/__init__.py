"""ApiKeyService: managing keys, verifying presented keys quickly, and pushing changes to whoever caches the answers."""
