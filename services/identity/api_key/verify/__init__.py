"""VerifyApiKey: parsing and deciding, the cache, and the reads behind it."""
