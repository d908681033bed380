"""Images with a class label for every pixel, as ADE20K has them; prediction files."""
