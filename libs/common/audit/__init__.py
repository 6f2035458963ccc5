"""The audit trail: who changed what, written with the change itself and chained by hashes, so that tampering shows."""
