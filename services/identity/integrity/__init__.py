"""IntegrityService: checks that identity's data is consistent."""
