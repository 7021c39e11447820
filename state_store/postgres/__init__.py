"""The store on PostgreSQL: `store.PostgresStore` over `connections`; the only importer of asyncpg.

What may happen in a transaction is written once, in the files of the room above; here is how transactions are run:
`together` lets many of them ask their questions in one statement and end in one commit.
"""
