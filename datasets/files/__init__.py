"""What every dataset needs to find and read its files."""
