"""Creating, changing, rotating and revoking keys, and how far a key may reach."""
