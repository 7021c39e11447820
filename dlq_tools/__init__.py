"""How what failed is repaired and what passed is re-examined."""
