"""Faults by the thousand, apart from the tests: `python tests/campaign --help`."""
