"""Linear probes: logistic regression with proven gaps, and the search for its strength."""

from rwkvclip_eval.logistic.lbfgs import fit_lbfgs
from rwkvclip_eval.logistic.search import Search, SearchPoint, clip_grid, search_l2
from rwkvclip_eval.logistic.solution import Solution, Status, scores
from rwkvclip_eval.logistic.solver import Solver, check_budget, fit_logistic

__all__ = [
    "Search",
    "SearchPoint",
    "Solution",
    "Solver",
    "Status",
    "check_budget",
    "clip_grid",
    "fit_lbfgs",
    "fit_logistic",
    "scores",
    "search_l2",
]
