"""Radiographs turned in three dimensions: rendering them from CT, and the model that learns to turn them."""
