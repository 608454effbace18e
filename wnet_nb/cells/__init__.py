"""From class probabilities to cells: size, seeds, outlines, measurements and scores."""
