"""What plans charge for the usage of periods: charged when a period is over, and kept right."""
