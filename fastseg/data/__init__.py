"""Reading, checking, cropping and generating NIfTI volumes."""
