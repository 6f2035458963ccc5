"""ChargeService: what metering asks billing to charge, and what billing has not confirmed yet."""
