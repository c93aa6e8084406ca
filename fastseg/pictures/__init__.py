"""Draw pictures and show tables and pages, for people."""
