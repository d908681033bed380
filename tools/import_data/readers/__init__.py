"""One file for each format: each has `read`, which turns a folder into the common record."""
