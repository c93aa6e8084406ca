"""Read, check, crop and generate NIfTI volumes."""
