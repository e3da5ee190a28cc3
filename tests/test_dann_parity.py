"""The DANN chapter against numbers that the authors' own code and public ones gave (`XFER_PARITY` says where they
are)."""
from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from torch import nn

from xfer_course.dann import DANN, MarginalizedDenoiser, ShallowDANN, lambda_schedule, learning_rate_schedule
from xfer_course.data import moons_pair

WEIGHTS = {"W_": "W", "V_": "V", "b_": "b", "c_": "c", "u_": "U", "d_": "d"}


# --- schedules ---------------------------------------------------------------------------------------------------


def test_schedules_to_1e_12(parity):
    case = parity("dann", "schedules_a")
    case.assert_close(lambda_schedule(case["p_grid"]), "lambda_on_p", 1e-12)
    case.assert_close(lambda_schedule(case["p_per_iteration"]), "lambda_per_iteration", 1e-12)
    case.assert_close(learning_rate_schedule(case["p_grid"]), "paper_lr_on_p", 1e-12)


def test_warm_start_of_another_library_is_our_schedule_with_its_gamma(parity):
    case = parity("dann", "schedules_a")
    p = case["iterations"] / case.options["warm_start"]["max_iters"]
    np.testing.assert_allclose(lambda_schedule(p[p <= 1], gamma=10.0), case["warmstart_custom"][p <= 1], atol=1e-12)


# --- gradient reversal in small networks -------------------------------------------------------------------------


class Difference(nn.Module):
    """Two domain outputs as one logit: `sign=1` where the second output is the target, `-1` where it is the source."""

    def __init__(self, sign: int):
        super().__init__()
        self.sign = sign

    def forward(self, outputs):
        return self.sign * (outputs[:, 1] - outputs[:, 0])


class Negate(nn.Module):
    def forward(self, logit):
        return -logit


def linear(weight: np.ndarray, bias: np.ndarray) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0])
    layer.load_state_dict({"weight": torch.tensor(weight), "bias": torch.tensor(bias)})
    return layer


def tensors(case) -> list[torch.Tensor]:
    return [torch.tensor(case[name]) for name in ("x_source", "y_source", "x_target")]


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0])
def test_gradients_of_summed_losses(parity, alpha):
    case = parity("dann", "reversal_sum_a")
    features = nn.Sequential(linear(case["p.Wf"], case["p.bf"]), nn.ReLU())
    domain = nn.Sequential(linear(case["p.Wd"], case["p.bd"]), Difference(1))
    model = DANN(features, linear(case["p.Wy"], case["p.by"]), domain)
    loss = model.loss(*tensors(case), lambda_=alpha)
    (loss.label + 2 * loss.domain).backward()  # that code adds the two domain losses, ours is their mean
    for name, value in [("Wf", features[0].weight), ("bf", features[0].bias), ("Wy", model.label_predictor.weight),
                        ("by", model.label_predictor.bias), ("Wd", domain[0].weight), ("bd", domain[0].bias)]:
        case.assert_close(value.grad, f"grad_{name}_alpha{alpha:g}")
    expected = case[f"losses_alpha{alpha:g}"]
    np.testing.assert_allclose([loss.label.item(), loss.domain.item()], [expected[0], expected[1:].mean()], rtol=1e-5)


@pytest.mark.parametrize("name", ["reversal_tll_bn_a", "reversal_tll_softmax_a"])
def test_gradients_with_the_opposite_domain_labels_and_a_deep_domain_head(parity, name):
    case = parity("dann", name)
    sizes = [case.options["feature"], case.options["hidden"]]
    layers = [nn.Linear(*sizes), nn.BatchNorm1d(sizes[1]), nn.ReLU(), nn.Linear(sizes[1], sizes[1]),
              nn.BatchNorm1d(sizes[1]), nn.ReLU()]
    last = ([nn.Sequential(nn.Linear(sizes[1], 1)), Negate()] if case.options["sigmoid"]
            else [nn.Linear(sizes[1], 2), Difference(-1)])
    domain = nn.Sequential(*layers, *last)
    domain.load_state_dict({k[2:]: torch.tensor(case[k]) for k in case.data.files if k.startswith("D.")})
    features = nn.Sequential(linear(case["p.Wf"], case["p.bf"]), nn.ReLU())
    model = DANN(features, linear(case["p.Wy"], case["p.by"]), domain)
    grl = case.options["grl"]
    for call, iteration in enumerate(case["iteration_used"]):
        loss = model.loss(*tensors(case), lambda_=lambda_schedule(iteration / grl["max_iters"], gamma=grl["alpha"]))
        model.zero_grad()
        (loss.label + case.options["trade_off"] * loss.domain).backward()
        case.assert_close(features[0].weight.grad, f"grad_Wf_call{call}")
        case.assert_close(features[0].bias.grad, f"grad_bf_call{call}")
        case.assert_close(model.label_predictor.weight.grad, f"grad_Wy_call{call}")
        np.testing.assert_allclose(loss.domain.item(), case["transfer_loss"][call], rtol=1e-5)
        for key, value in domain.named_parameters():
            if f"grad_D.{key}_call{call}" in case.data.files:
                case.assert_close(value.grad, f"grad_D.{key}_call{call}")


def public_digit_network(case) -> DANN:
    "The convolutional network of a public implementation, with dropout off, out of the modules that DANN takes."
    def head(*sizes):
        hidden = [[nn.Linear(a, b), nn.BatchNorm1d(b), nn.ReLU()] for a, b in zip(sizes[:-2], sizes[1:])]
        return [*sum(hidden, []), nn.Linear(*sizes[-2:])]

    features = nn.Sequential(
        nn.Conv2d(3, 64, 5), nn.BatchNorm2d(64), nn.MaxPool2d(2), nn.ReLU(),
        nn.Conv2d(64, 50, 5), nn.BatchNorm2d(50), nn.MaxPool2d(2), nn.ReLU(), nn.Flatten(),
    )
    parts = {"feature": features, "class_classifier": nn.Sequential(*head(800, 100, 100, 10)),
             "domain_classifier": nn.Sequential(*head(800, 100, 2), Difference(1))}
    for prefix, part in parts.items():
        stored = [case[name] for name in case.data.files if name.startswith(f"sd.{prefix}.")]
        part.load_state_dict({ours: torch.tensor(value).to(like.dtype)
                              for (ours, like), value in zip(part.state_dict().items(), stored)})
    return DANN(*parts.values(), joint_batch=False)


def test_separate_batches_give_the_losses_of_a_public_digit_network(parity):
    case = parity("dann", "digit_network_a")
    model = public_digit_network(case)
    source, target = torch.tensor(case["x_source"]).float().repeat(1, 3, 1, 1), torch.tensor(case["x_target"]).float()
    loss = model.loss(source, torch.tensor(case["y_source"]), target, lambda_=case.options["alpha"])
    expected = case["train_losses"]
    np.testing.assert_allclose([loss.label.item(), loss.domain.item()], [expected[0], expected[1:].mean()], rtol=1e-5)
    (loss.label + 2 * loss.domain).backward()
    case.assert_close(model.feature_extractor[0].weight.grad, "grad.feature.f_conv1.weight")
    model = public_digit_network(case).eval()
    case.assert_close(model(target).class_logits.log_softmax(dim=1).detach(), "eval_class_target")


# --- shallow DANN ------------------------------------------------------------------------------------------------


def shallow(case, **changes) -> ShallowDANN:
    options = case.options
    settings = {"hidden_size": options["hidden_layer_size"], "learning_rate": options.get("learning_rate", 0.05),
                "lambda_": options["lambda_adapt"], "max_iter": options["maxiter"],
                "adversarial": options.get("adversarial_representation", True), "random_state": options["seed"]}
    return ShallowDANN(**settings | changes)


@pytest.mark.parametrize("form", [np.asarray, sp.csr_matrix, sp.csr_array])
@pytest.mark.parametrize("name", ["adversarial", "nonadversarial", "lambda0"])
def test_shallow_dann_has_the_authors_weights(parity, name, form):
    case = parity("dann", f"shallow_{name}_a")
    X, X_target = form(case["X"]), form(case["X_adapt"])
    for epochs, when in [(1, "epoch1"), (case.options["maxiter"], "end")]:
        estimator = shallow(case, max_iter=epochs).fit(X, case["Y"], X_target)
        for ours, theirs in WEIGHTS.items():
            case.assert_close(getattr(estimator, ours), f"{theirs}_{when}", 1e-9)
    case.assert_close(estimator.predict_proba(case["X_test"]).T, "forward_test")
    case.assert_close(estimator.transform(case["X_test"]), "hidden_test")
    assert np.array_equal(estimator.predict(case["X_test"]), case["predict_test"])
    for points, expected in [("X_test", "test"), ("X", "source"), ("X_adapt", "adapt")]:
        assert np.array_equal(estimator.predict_domain(case[points]), case[f"predict_domain_{expected}"])


def accuracies(estimator: ShallowDANN, case) -> list[float]:
    domain = (np.mean(estimator.predict_domain(case["X"]) == 0)
              + np.mean(estimator.predict_domain(case["X_target"]) == 1)) / 2
    return [estimator.score(case["X"], case["y"]), estimator.score(case["X_target"], case["y_target"]), domain]


def test_moons_plain_network_to_the_end(parity):
    case = parity("dann", "moons_paper")
    estimator = shallow(case, adversarial=False).fit(case["X"], case["y"], case["X_target"])
    case.assert_close(estimator.W_, "nn_W")
    case.assert_close(estimator.u_, "nn_U")
    np.testing.assert_allclose(accuracies(estimator, case),
                               [case[f"nn_{k}_accuracy"] for k in ("source", "target", "domain")])


def test_moons_dann_early_and_at_the_end(parity):
    case = parity("dann", "moons_paper")
    X, y, X_target, _ = moons_pair()
    early = shallow(case, max_iter=case.options["early_epochs"]).fit(X, y, X_target)
    for ours, theirs in [("W_", "W"), ("V_", "V"), ("u_", "U")]:
        case.assert_close(getattr(early, ours), f"dann_{theirs}_early")
    # Adversarial training amplifies rounding, so the end is compared with the spread of the authors' own runs.
    end = accuracies(shallow(case).fit(case["X"], case["y"], case["X_target"]), case)
    runs = case["dann_end_accuracies"]
    assert (np.abs(end - runs.mean(axis=0)) <= case.info["dann_end_accuracies"]["tol"]).all(), (end, runs)


# --- mSDA --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", [np.asarray, sp.csr_matrix])
def test_marginalized_denoiser(parity, form):
    case = parity("dann", "msda_a")
    denoiser = MarginalizedDenoiser(noise=case.options["noise"]).fit(
        form(np.vstack([case["x_source"], case["x_target"]])))
    for name in ("source", "target", "test"):
        case.assert_close(denoiser.transform(form(case[f"x_{name}"])), f"new_{name}")
    single = MarginalizedDenoiser(n_layers=1, noise=case.options["noise"]).fit(form(case["x_source"]))
    case.assert_close(single.coefs_[0], "one_layer_W")
    case.assert_close(single.transform(case["x_source"])[:, 6:].T, "one_layer_h")
