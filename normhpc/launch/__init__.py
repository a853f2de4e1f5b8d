"""Putting runs onto machines. Imports no torch; the worker does, where the training runs."""
