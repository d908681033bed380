"""One file for each layout that training reads, and the YAML file with its settings."""
