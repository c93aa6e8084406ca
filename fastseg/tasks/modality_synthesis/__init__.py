"""Missing images of whole patients: synthesised, scored, drawn."""
