"""Rules that hold for the whole repository: contract, layers, names, generated code, migrations and packaging."""
