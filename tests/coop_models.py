"""A CLIP in the shape of open_clip's, a word tokenizer for it, and prompts done the straightforward way."""
import math
from collections import OrderedDict

import torch
from torch import nn
from torch.nn import functional as F


class QuickGELU(nn.Module):
    def forward(self, x):
        return x * torch.sigmoid(1.702 * x)


class Block(nn.Module):
    def __init__(self, width: int, heads: int):
        super().__init__()
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attn = nn.MultiheadAttention(width, heads, batch_first=True)
        self.ls_1, self.ls_2 = nn.Identity(), nn.Identity()
        self.mlp = nn.Sequential(
            OrderedDict(c_fc=nn.Linear(width, 4 * width), gelu=QuickGELU(), c_proj=nn.Linear(4 * width, width)))

    def forward(self, x, mask):
        normed = self.ln_1(x)
        x = x + self.attn(normed, normed, normed, need_weights=False, attn_mask=mask)[0]
        return x + self.mlp(self.ln_2(x))


class Transformer(nn.Module):
    def __init__(self, width: int, heads: int, layers: int):
        super().__init__()
        self.resblocks = nn.ModuleList(Block(width, heads) for _ in range(layers))

    def forward(self, x, mask):
        for block in self.resblocks:
            x = block(x, mask)
        return x


class ImageTower(nn.Module):
    "A linear map of the pixels; its batch norm shows whether the CLIP stays in evaluation mode."

    def __init__(self, size: int, embed_dim: int):
        super().__init__()
        self.image_size = (size, size)
        self.norm, self.proj = nn.BatchNorm2d(3), nn.Linear(3 * size * size, embed_dim)

    def forward(self, images):
        return self.proj(self.norm(images).flatten(1))


class StubCLIP(nn.Module):
    "Attribute names, pooling and causal mask as in open_clip's CLIP."

    def __init__(self, width=64, heads=2, layers=2, vocabulary=100, context_length=77, embed_dim=32, size=8, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        self.visual = ImageTower(size, embed_dim)
        self.transformer = Transformer(width, heads, layers)
        self.token_embedding = nn.Embedding(vocabulary, width)
        self.positional_embedding = nn.Parameter(0.1 * torch.randn(context_length, width))
        self.ln_final = nn.LayerNorm(width)
        self.text_projection = nn.Parameter(torch.randn(width, embed_dim) / math.sqrt(width))
        self.logit_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))
        self.text_pool_type = "argmax"
        self.register_buffer("attn_mask", torch.full((context_length, context_length), -math.inf).triu(1),
                             persistent=False)

    def encode_image(self, images, normalize=False):
        return self.visual(images)

    def encode_embedded(self, x, ends):
        "Text features of embedded prompts of full length."
        x = self.transformer(x + self.positional_embedding, self.attn_mask.to(x.dtype))
        return self.ln_final(x)[torch.arange(len(x)), ends] @ self.text_projection

    def encode_text(self, tokens, normalize=False):
        return self.encode_embedded(self.token_embedding(tokens), tokens.argmax(1))


class WordTokenizer:
    "One token per word or full stop, unknown words by length; cuts long texts silently, as open_clip's does."

    def __init__(self, vocabulary=100, context_length=77):
        self.end, self.context_length, self.known = (vocabulary - 1, context_length,
                                                     ["<pad>", ".", *"a photo of the sketch".split()])

    def ids(self, text):
        words = text.lower().replace(".", " . ").split()
        return [self.known.index(w) if w in self.known else 7 + sum(map(ord, w)) % (self.end - 8) for w in words]

    def __call__(self, texts):
        rows = torch.zeros(len(texts), self.context_length, dtype=torch.long)
        for row, text in zip(rows, texts):
            ids = [self.end - 1, *self.ids(text), self.end][: self.context_length]
            ids[-1] = self.end
            row[: len(ids)] = torch.tensor(ids)
        return rows

    def decode(self, ids):
        return " ".join(self.known[i] if i < len(self.known) else f"w{i}" for i in ids)


def plain_prompts(model, length: int) -> torch.Tensor:
    "Embedded prompts of full length, put together class by class."
    tower, rows = model.tower, []
    context = model.ctx if model.class_specific else [model.ctx] * len(model.classnames)
    for name, ctx in zip(model.classnames, context):
        ids = model.tokenizer([name + "."])[0]
        name_length = int(model.tokenizer([name])[0].argmax()) - 1
        ids = F.pad(ids, (0, length))[: length - model.n_ctx].to(ctx.device)
        embedded = tower.token_embedding(ids)
        start, words, rest = embedded[:1], embedded[1 : 1 + name_length], embedded[1 + name_length :]
        half = model.n_ctx // 2
        parts = {"end": [start, ctx, words, rest], "middle": [start, ctx[:half], words, ctx[half:], rest],
                 "front": [start, words, ctx, rest]}
        rows.append(torch.cat(parts[model.position]))
    return torch.stack(rows)


def plain_text_features(model) -> torch.Tensor:
    "The straightforward way: all classes, all positions, every layer."
    length = len(model.tower.positional_embedding)
    return F.normalize(model.tower.encode_embedded(plain_prompts(model, length), model.ends), dim=-1)


def plain_logits(model, image_features) -> torch.Tensor:
    return model.clip.logit_scale.exp() * F.normalize(image_features, dim=-1) @ plain_text_features(model).T
