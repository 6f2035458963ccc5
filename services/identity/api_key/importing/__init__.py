"""ImportApiKeys: takes over keys of other systems, of which only digests are known."""
