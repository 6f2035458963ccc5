"""How usage leaves: months that are dropped, and users who are forgotten."""
