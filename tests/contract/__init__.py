"""The promises that hold over the whole repository: contract, borders, names, generated code, migrations, packaging."""
