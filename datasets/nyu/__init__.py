"""NYU Depth V2 and other images with depth maps: split lists, 16-bit maps, prediction files."""
