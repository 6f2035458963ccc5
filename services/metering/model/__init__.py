"""The catalogue of models and their price versions."""
