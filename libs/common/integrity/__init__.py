"""IntegrityService, which all three services serve: checks the invariants of what is stored."""
