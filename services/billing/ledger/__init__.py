"""The ledger: every movement of money and every hold, through one group-commit engine."""
