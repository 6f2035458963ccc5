"""What all commands share: options, connections to services, output, and refusals as one line."""
