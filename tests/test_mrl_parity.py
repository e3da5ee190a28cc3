"""Heads, losses, cascade, oracle and retrieval against arrays from the authors' own code."""
import numpy as np
import pytest
import torch

from xfer_course.mrl import (
    AdaptiveClassifier,
    AdaptiveRetrieval,
    FunnelRetrieval,
    MatryoshkaContrastive,
    MatryoshkaHead,
    MatryoshkaLoss,
    doubling_dims,
    mean_average_precision_at_k,
    precision_at_k,
    top1_nearest_neighbour,
    truncate,
)

HEADS = ["mrl", "mrl_importance", "mrl_smooth", "mrl_e", "mrl_e_importance", "mrl_e_nobias"]


def loaded_head(case) -> MatryoshkaHead:
    "A head with the case's weights."
    o, parameters = case.options, {name: case[name] for name in case.data.files if name.startswith("head.")}
    widest = max(p.shape[1] for p in parameters.values() if p.ndim == 2)
    head = MatryoshkaHead(widest, o["num_classes"], o["nesting_list"], tied=o["efficient"], bias=o["bias"])
    renamed = {n.replace("head.nesting_classifier_", "classifiers."): torch.from_numpy(p)
               for n, p in parameters.items()}
    head.load_state_dict(renamed)
    return head


@pytest.mark.parametrize("form", ["logits and loss", "fused"])
@pytest.mark.parametrize("name", HEADS)
def test_head_loss_and_gradients(parity, name, form):
    case = parity("mrl", f"head_a_{name}")
    o, head = case.options, loaded_head(case)
    x, y = torch.from_numpy(case["x"]).requires_grad_(), torch.from_numpy(case["y"])
    if form == "fused":
        loss = head.loss(x, y, o["relative_importance"], o["label_smoothing"])
    else:
        criterion = MatryoshkaLoss(o["nesting_list"], o["relative_importance"], label_smoothing=o["label_smoothing"])
        logits = head(x)
        for z, m in zip(logits, o["nesting_list"]):
            case.assert_close(z.detach(), f"logits_{m}")
            case.assert_close(head.logits_at(x, m).detach(), f"logits_{m}")
        case.assert_close(criterion.per_size(logits, y).detach(), "loss_per_dim")
        loss = criterion(logits, y)
    loss.backward()
    case.assert_close(loss.detach(), "loss")
    case.assert_close(x.grad, "grad_x")
    for key, parameter in head.named_parameters():
        case.assert_close(parameter.grad, "grad_head." + key.replace("classifiers.", "nesting_classifier_"))


def test_fixed_feature_is_a_head_with_one_size(parity):
    case = parity("mrl", "fixed_feature_a")
    head = MatryoshkaHead(case["x"].shape[1], case.options["num_classes"], [case.options["in_features"]])
    head.load_state_dict({"classifiers.0.weight": torch.from_numpy(case["layer.weight"]),
                          "classifiers.0.bias": torch.from_numpy(case["layer.bias"])})
    x, y = torch.from_numpy(case["x"]).requires_grad_(), torch.from_numpy(case["y"])
    loss = head.loss(x, y)
    loss.backward()
    case.assert_close(head(x)[0].detach(), "logits")
    case.assert_close(loss.detach(), "loss")
    case.assert_close(x.grad, "grad_x")
    case.assert_close(head.classifiers[0].weight.grad, "grad_layer.weight")
    case.assert_close(head.classifiers[0].bias.grad, "grad_layer.bias")


@pytest.mark.parametrize("name", ["evaluate_a", "evaluate_tta_a"])
def test_evaluation(parity, name):
    case = parity("mrl", name)
    head, images, y = loaded_head(case), torch.from_numpy(case["images"]), torch.from_numpy(case["y"])
    with torch.no_grad():
        logits = head(images.flatten(1))
        if case.options["tta"]:
            logits = logits + head(images.flip(-1).flatten(1))
    best = logits.topk(5, -1).indices
    case.assert_close(logits, "logits")
    case.assert_close(logits.softmax(-1), "softmax")
    case.assert_close(best, "top5_predictions")
    case.assert_close((best[..., 0] == y).double().mean(1), "top1_accuracy")
    case.assert_close((best == y[:, None]).any(-1).double().mean(1), "top5_accuracy")


def test_cascade(parity):
    case = parity("mrl", "cascade_a")
    probabilities, labels = torch.from_numpy(case["softmax"]).double(), torch.from_numpy(case["gt"])
    dims, rows = case.options["sizes"], torch.arange(len(case["gt"]), dtype=torch.double)[:, None]

    def head(row: torch.Tensor) -> torch.Tensor:  # the "features" are row numbers into the stored probabilities
        return probabilities[:, row[:, 0].long()].log()

    thresholds, expected, accuracy = [], [], []
    for search, test in zip(case["holdout_index_sets"], case["test_index_sets"]):
        search, test = torch.from_numpy(search), torch.from_numpy(test).long()
        cascade = AdaptiveClassifier(head, dims, grid=np.linspace(0.1, 1, 100)).fit(rows[search], labels[search])
        thresholds.append(cascade.thresholds_)
        capped = [cascade.predict(rows[test], max_dim=m) for m in dims[1:]]
        expected.append([float(used.double().mean()) for _, used in capped])
        accuracy.append([float((got == labels[test]).float().mean()) for got, _ in capped])
    case.assert_close(thresholds, "thresholds")
    case.assert_close(np.transpose(expected), "expected_dim")
    case.assert_close(np.transpose(accuracy), "accuracy")


def test_retrieval_by_size(parity):
    case = parity("mrl", "retrieval_a")
    o, found = case.options, {}
    for m in o["nesting_list"]:
        found[m] = FunnelRetrieval(case["db"], [m], []).search(case["queries"], o["k"])[1]
        case.assert_close(found[m], f"neighbors_{m}")
        by_distance = FunnelRetrieval(truncate(case["db"], m), [m], [],
                                      metric="euclidean").search(truncate(case["queries"], m), o["k"])[1]
        case.assert_close(by_distance, f"neighbors_{m}")
    labels = case["db_labels"], case["query_labels"]
    case.assert_close([top1_nearest_neighbour(found[m], *labels) for m in o["nesting_list"]], "top1")
    for metric, name in [(mean_average_precision_at_k, "mAP"), (precision_at_k, "precision")]:
        case.assert_close([[metric(found[m], *labels, k) for k in o["metric_ks"]] for m in o["nesting_list"]], name)


def test_rerank(parity):
    case = parity("mrl", "retrieval_a")
    o, labels = case.options, (case["db_labels"], case["query_labels"])
    found = []
    for m in o["rerank_dims"]:
        search = AdaptiveRetrieval(case["db"], o["retrieval_dim"], m, shortlist=o["rerank_shortlist"])
        found.append(search.search(case["queries"], o["rerank_shortlist"])[1])
        case.assert_close(found[-1], f"reranked_{m}")
    case.assert_close([top1_nearest_neighbour(i, *labels) for i in found], "reranked_top1")
    case.assert_close([[mean_average_precision_at_k(i, *labels, k) for k in case["reranked_ks"]] for i in found],
                      "reranked_mAP")
    case.assert_close([[precision_at_k(i, *labels, k) for k in case["reranked_ks"]] for i in found],
                      "reranked_precision")


@pytest.mark.parametrize("number", [0, 1])
def test_funnel(parity, number):
    case = parity("mrl", "retrieval_a")
    o, labels = case.options, (case["db_labels"], case["query_labels"])
    shortlists = o["funnel_shortlists"][number]
    search = FunnelRetrieval(case["db"], [o["retrieval_dim"], *o["funnel_dims"]], shortlists)
    found = search.search(case["queries"], shortlists[-1])[1]
    case.assert_close(found, f"funnel{number}_neighbors")
    ks = case[f"funnel{number}_ks"]
    case.assert_close([top1_nearest_neighbour(found, *labels)], f"funnel{number}_top1")
    case.assert_close([mean_average_precision_at_k(found, *labels, k) for k in ks], f"funnel{number}_mAP")
    case.assert_close([precision_at_k(found, *labels, k) for k in ks], f"funnel{number}_precision")


def test_contrastive_equals_the_library(parity):
    case = parity("mrl", "st_matryoshka_mnr_a")
    weight = torch.from_numpy(case["W"]).requires_grad_()
    sides = [torch.from_numpy(case[name]) @ weight.T for name in ("x_0", "x_1")]
    criterion = MatryoshkaContrastive(sorted(case.options["dims"]), scale=case.options["scale"])
    loss = criterion(*sides)
    loss.backward()
    case.assert_close(loss.detach(), "loss")
    case.assert_close(weight.grad, "grad_W")
    case.assert_close(criterion.per_size(*sides).detach().flip(0), "loss_per_dim")


def test_oracle(parity):
    from xfer_course.mrl import oracle
    case = parity("mrl", "oracle_a")
    choice = oracle(torch.from_numpy(case["prediction"]), torch.from_numpy(case["gt"]))
    case.assert_close(choice, "oracle_choice")
    right = torch.from_numpy(case["prediction"]).gather(0, choice[None])[0] == torch.from_numpy(case["gt"])
    case.assert_close(np.bincount(choice, minlength=9), "oracle_histogram")
    case.assert_close(right.double().mean(), "oracle_accuracy")
    case.assert_close(torch.tensor(doubling_dims(2048))[choice].double().mean(), "oracle_expected_dim")
