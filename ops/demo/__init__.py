"""What only a laptop needs: the demo, its photos, the slides."""
