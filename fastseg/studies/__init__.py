"""Comparisons of systems: arms, seeds, tables with tests."""
