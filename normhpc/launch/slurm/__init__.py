"""Runs onto a Slurm cluster: arrays in waves, through submitit, with nothing left behind on the login node."""
