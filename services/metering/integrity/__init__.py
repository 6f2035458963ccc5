"""Shows that what metering keeps is consistent."""
