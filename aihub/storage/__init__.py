"""PostgreSQL (the only source of truth), Redis (losable) and their embedded servers. All SQL of the product lives here."""
