"""Experiments: published methods composed from diffax, and the program that launches them."""
