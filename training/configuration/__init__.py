"""The options of a run: what there are, what one word sets, how they come together, what was spelled otherwise."""
