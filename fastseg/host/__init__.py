"""What the machine gives: files, devices, processes, progress."""
