"""SystemConfigurationService: the configuration of the whole platform."""
