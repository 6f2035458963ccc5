"""The peers metering calls: billing for money, identity for keys."""
