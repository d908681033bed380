"""Read a whole data set as training would, and say what is wrong with it, what it holds, and how it looks."""
