"""Label maps of whole patients: predicted, scored, drawn."""
