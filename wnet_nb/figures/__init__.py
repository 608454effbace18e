"""What a run shows: curves, planes through volumes, and the page of its report."""
