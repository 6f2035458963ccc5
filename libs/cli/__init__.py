"""The `tollhouse` command. It calls the services through their stubs and starts them as separate processes."""
