"""Slow references in float64, written from the formulas and from nothing else."""
