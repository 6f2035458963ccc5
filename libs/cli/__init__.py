"""The `tollhouse` command. It talks to the services through their stubs and starts them as processes of their own."""
