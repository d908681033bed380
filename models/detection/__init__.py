"""Two-stage detectors: anchors, region proposals, and the heads that look at regions."""
