"""Task families: distributions of optimizees."""
