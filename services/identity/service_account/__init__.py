"""ServiceAccountService: owners of API keys that are not people."""
