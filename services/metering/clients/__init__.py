"""The services metering calls: billing for money, identity for keys and organizations."""
