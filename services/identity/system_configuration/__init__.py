"""SystemConfigurationService: what is configured for the whole platform."""
