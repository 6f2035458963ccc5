"""ApiKeyService: keys, the fast answer to whose key was presented, and the push of what changes that answer."""
