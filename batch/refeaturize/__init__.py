"""Giving photos features of another network, from their copies or originals."""
