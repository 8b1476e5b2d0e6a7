"""The framework that the studies are written with; these are the names that every study needs."""

from experiments.framework.definition import Cell, Experiment, Figure, Result, Results, Setup, Table
from experiments.framework.workspace import Workspace

__all__ = ["Cell", "Experiment", "Figure", "Result", "Results", "Setup", "Table", "Workspace"]
