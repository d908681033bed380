"""All upsamplers in several models, over several seeds, with what they cost: `python -m tools.board`."""
