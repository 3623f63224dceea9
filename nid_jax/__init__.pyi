from . import data, metrics, tasks
from .coding import operators, solvers
from .coding.factorisation import Factorisation
from .coding.low_rank import LowRank
from .coding.prior import GaussianPrior
from .coding.problem import Problem
from .coding.solution import Result, Solution
from .coding.solvers import (
    IHT,
    OMP,
    Gaussian,
    Gradient,
    Lasso,
    Ridge,
    Robust,
    RouterCodes,
    RouterRidge,
    Solver,
    Surface,
)
from .coding.total_variation import TotalVariation
from .errors import ArgumentError
from .fitting.fit import Fit
from .interop.exporting import ExportedFit, export
from .learning import learn
from .neural_dictionary import NeuralDictionary, load
from .notices import Notice

__version__: str

__all__ = [
    "ArgumentError",
    "ExportedFit",
    "Factorisation",
    "Fit",
    "GaussianPrior",
    "Gaussian",
    "Gradient",
    "IHT",
    "Lasso",
    "LowRank",
    "NeuralDictionary",
    "Notice",
    "OMP",
    "Problem",
    "Result",
    "Ridge",
    "Robust",
    "RouterCodes",
    "RouterRidge",
    "Solution",
    "Solver",
    "Surface",
    "TotalVariation",
    "data",
    "export",
    "learn",
    "load",
    "metrics",
    "operators",
    "solvers",
    "tasks",
]
