"""How the networks beyond the report were trained."""
