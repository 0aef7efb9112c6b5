"""What a finished run reached: measured, written down, shown."""
