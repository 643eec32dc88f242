"""Files and vector stores: wire types, routes, tables, parsing, search, ingest."""
