"""The figures that the DySample paper prints, and what our models count to."""
