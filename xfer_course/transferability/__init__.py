"""What transfers? Frozen features, layers, invariances, and how to know before."""
from .gaussian import AnomalyDetector, heat_map, principal_parts, sigma_threshold
from .ped import Balls, Descent, potential_energy, potential_energy_descent
from .scores import (
    SCORES, LogME, Ranked, fit_logme, h_score, logme, nce, rank_checkpoints, sfda, sfda_shrinkage, weighted_tau,
)

__all__ = [
    "AnomalyDetector", "Balls", "Descent", "LogME", "Ranked", "SCORES", "fit_logme", "h_score", "heat_map", "logme",
    "nce", "potential_energy", "potential_energy_descent", "principal_parts", "rank_checkpoints", "sfda",
    "sfda_shrinkage", "sigma_threshold", "weighted_tau",
]
