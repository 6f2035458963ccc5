"""VerifyApiKey: from the secret to the answer, and the caches in between."""
