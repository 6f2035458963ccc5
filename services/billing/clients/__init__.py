"""The services billing calls: identity for organizations and their members, metering for models."""
