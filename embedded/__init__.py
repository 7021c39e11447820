"""One SQLite file shared by processes: the leaf on which the embedded bus and store both rest."""
