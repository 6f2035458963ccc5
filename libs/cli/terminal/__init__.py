"""What commands share: options, connections to the services, output, and errors as one line."""
