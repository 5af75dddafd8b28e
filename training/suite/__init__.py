"""Suites of environments: agents scored on all of them, beside published numbers."""
