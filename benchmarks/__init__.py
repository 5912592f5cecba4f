"""Ours against what else one could do, side by side in one run, as ratios: `make bench`. Not part of the package."""
