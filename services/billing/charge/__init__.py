"""ChargeService: what billing has charged, for other services to compare with their own records."""
