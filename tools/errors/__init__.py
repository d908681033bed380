"""What kinds of errors a trained model makes, as numbers and as a page with the worst pictures."""
