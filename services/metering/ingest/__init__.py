"""IngestService: usage that comes as events in the JSON of CloudEvents, and what these events mean."""
