"""WatchApiKeys: the change feed, and its subscribers."""
