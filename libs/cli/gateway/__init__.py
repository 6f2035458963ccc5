"""The gateway that serves the contract over REST: Envoy, with a configuration written from the descriptors."""
