"""What crosses a process boundary: envelope, events, schemas, topology, errors. Imports no other room."""
