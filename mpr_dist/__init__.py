"""Multi-particle refinement of cryo-EM tilt series, on one machine or many."""

__version__ = "0.1.0"
