"""What transfers? Frozen features, layers, invariances, and how to know before."""
from .ped import Balls, Descent, potential_energy, potential_energy_descent
from .scores import (
    SCORES, LogME, Ranked, fit_logme, h_score, logme, nce, rank_checkpoints, sfda, sfda_shrinkage, weighted_tau,
)

__all__ = [
    "Balls", "Descent", "LogME", "Ranked", "SCORES", "fit_logme", "h_score", "logme", "nce", "potential_energy",
    "potential_energy_descent", "rank_checkpoints", "sfda", "sfda_shrinkage", "weighted_tau",
]
