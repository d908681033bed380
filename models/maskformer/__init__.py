"""The parts of MaskFormer: pixel decoder, transformer decoder, matching and losses."""
