"""Usage records: written once, summed by the hour, charged in billing exactly once."""
