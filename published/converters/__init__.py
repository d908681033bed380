"""Convert published weights into ours: one module for each family of networks."""
