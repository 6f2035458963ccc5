"""The audit trail: what changed, by whom, written with the change itself and chained so that tampering shows."""
