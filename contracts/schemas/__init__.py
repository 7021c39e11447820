"""The Avro schemas of the events, generated from their classes by `make schemas` and committed."""
