"""ImportApiKeys: keys of other systems, kept as digests of digests."""
