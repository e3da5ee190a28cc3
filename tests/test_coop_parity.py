"""CoOp's prompts, features, logits, gradients, steps, nearest words and schedule against the authors' own code."""
import numpy as np
import pytest
import torch
from torch.nn import functional as F

from coop_models import StubCLIP
from xfer_course.coop import CoOp, learning_rate, nearest_rows

CASES = [f"vitA_{kind}_{position}_n{n}" for kind in ("uni", "csc") for position in ("end", "middle", "front")
         for n in (4, 16)]
CASES += ["vitB_csc_end_n16", "vitB_uni_end_n4_init", "vitB_uni_middle_n4", "resnet_uni_end_n4"]


class StoredTokenizer:
    "Gives the ids that the authors' tokenizer gave, taken from the stored prompts."

    def __init__(self, case):
        ids, self.known = torch.from_numpy(case["tokenized_prompts_local"]).long(), {}
        n_ctx, words = case.options["n_ctx"], case.options["ctx_init"]
        for name, row, end, length in zip(case.options["class_names"], ids, case["eot_position"], case["name_lens"]):
            text = row[1 + n_ctx : end]
            self.known |= {name.replace("_", " ") + ".": text, name.replace("_", " "): text[:length],
                           ".": text[length:]}
            self.known[words] = row[1 : 1 + n_ctx]
        self.start, self.end = ids[0, 0], ids.max()

    def __call__(self, texts):
        rows = torch.zeros(len(texts), 77, dtype=torch.long)
        for row, text in zip(rows, texts):
            ids = [self.start, *self.known[text], self.end]
            row[: len(ids)] = torch.tensor(ids)
        return rows


def stored_clip(model) -> StubCLIP:
    "The text tower with the stored weights."
    state = {name[3:]: torch.from_numpy(model[name]) for name in model.data.files if name.startswith("sd.")
             and not name.startswith("sd.visual")}
    state["token_embedding.weight"] = torch.from_numpy(model["token_embedding_rows"])
    rows, width = state["token_embedding.weight"].shape
    layers = model.options["constructor"]["transformer_layers"]
    clip = StubCLIP(width, model.options["constructor"]["transformer_heads"], layers, rows,
                    embed_dim=state["text_projection"].shape[1])
    missing, unexpected = clip.load_state_dict(state, strict=False)
    assert not unexpected and all(name.startswith("visual") for name in missing)
    return clip


def prepared(parity, name: str) -> tuple:
    case, model = parity("coop", name), parity("coop", name.split("_")[0] + "_model")
    o = case.options
    coop = CoOp(stored_clip(model), o["class_names"], n_ctx=o["n_ctx"], class_token_position=o["class_token_position"],
                class_specific=o["csc"] and not o["ctx_init"], ctx_init=o["ctx_init"] or None,
                tokenizer=StoredTokenizer(case))
    if o["ctx_init"]:
        case.assert_close(coop.ctx.detach(), "ctx_from_words")
    else:
        coop.ctx.data = torch.from_numpy(case["ctx0"])
    return case, coop, torch.from_numpy(model["image_features"]), torch.from_numpy(model["labels"]).long()


@pytest.mark.parametrize("chunk_size", [None, 2])
@pytest.mark.parametrize("name", CASES)
def test_prompts_features_logits_and_gradient(parity, name, chunk_size):
    case, coop, images, labels = prepared(parity, name)
    coop.chunk_size = chunk_size
    case.assert_close(coop.ends, "eot_position")
    length = coop.token_ids.shape[1]
    inside = torch.arange(length) <= coop.ends[:, None]
    stored = torch.from_numpy(case["prompts"])[:, :length]
    assert (coop.prompts() - stored)[inside].abs().max() <= 1e-5 * stored.abs().max()
    case.assert_close(coop.text_features().detach(), "text_features_normalized")
    logits = coop.from_features(images)
    case.assert_close(logits.detach(), "logits")
    loss = F.cross_entropy(logits, labels)
    loss.backward()
    case.assert_close(loss.detach(), "loss")
    case.assert_close(coop.ctx.grad, "grad_ctx")


@pytest.mark.parametrize("name", CASES)
def test_three_steps(parity, name):
    case, coop, images, labels = prepared(parity, name)
    o, before, losses, contexts = case.options, coop.ctx.detach().clone(), [], []
    optimizer = torch.optim.SGD([coop.ctx], lr=o["lr"], momentum=o["momentum"], weight_decay=o["weight_decay"])
    for _ in range(o["steps"]):
        optimizer.zero_grad()
        losses.append(F.cross_entropy(coop.from_features(images), labels))
        losses[-1].backward()
        optimizer.step()
        contexts.append(coop.ctx.detach().clone())
    losses.append(F.cross_entropy(coop.from_features(images), labels))
    case.assert_close(torch.stack(losses).detach(), "loss_per_step")
    case.assert_close(torch.stack(contexts), "ctx_after_steps")
    case.assert_close(contexts[-1] - before, "ctx_change_after_3")


def test_nearest_words(parity):
    case, model = parity("coop", "vitA_interpret"), parity("coop", "vitA_model")
    ctx, table = torch.from_numpy(case["ctx0"]), torch.from_numpy(model["token_embedding_rows"])
    known = np.isin(case["nearest_ids"], model["token_row_ids"])
    assert known.all(), "the stored rows hold all neighbours"
    distances, rows = nearest_rows(ctx, table, case.options["topk"])
    case.assert_close(rows, "nearest_rows")
    case.assert_close(distances, "nearest_distances")


@pytest.mark.parametrize("epochs", [50, 200])
def test_learning_rate(parity, epochs):
    case = parity("coop", f"lr_schedule_{epochs}")
    case.assert_close([learning_rate(epoch, epochs) for epoch in range(epochs)], "lr_used_in_epoch")
