"""What the benchmarks share: where they run, what they measure with, and how they report."""
