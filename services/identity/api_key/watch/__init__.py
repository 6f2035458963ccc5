"""WatchApiKeys: the feed of changes, and its subscribers."""
