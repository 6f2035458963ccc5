"""ServiceAccountService: owners of API keys that are no people."""
