"""Data: tasks that need no download, loaders for the papers' sets and for your own folder, batches,
and files that can be trusted.

One module each: `files` and `archives` (reading, writing, unpacking), `catalogue` (which sets there are, fetching),
`batching`, `several_domains`, `loading`, `decoding`, `lazy`, `generated`, `characters`, `signs`, `reviews`, `folders`,
`sets`, `domains` and `built`; and for captioned pictures `shapes`, `scenes`, `captions` and `captioned`.
"""
from .archives import MAX_MEMBERS, check_space, tar_contents, unpack, zip_contents
from .batching import Images, InputBatches, PassSampler, TensorBatches, batches, domain_batches
from .built import BSDS500_COUNTS, bsds500, make, mnist_m
from .captioned import SHIFTS, TEMPLATES, FewShotTask, Pictures, few_shot_tasks, pictures, shifted
from .captions import caption, synonyms
from .catalogue import built_file, data_versions, datasets, expected_bytes, find_file, get, manifest
from .decoding import (GREY, as_images, check_request, decode_image, first_of, read_picture, reading_image, to_float,
                       upright_rgb)
from .characters import OMNIGLOT_ALPHABETS, PER_ALPHABET, Characters, glyphs, omniglot
from .domains import (OFFICE_CALTECH_CLASSES, OFFICE_CALTECH_DOMAINS, Features, Tracks, gtsrb32, office_caltech,
                      office_caltech_features)
from .files import (MAX_UNPACKED, DataFileError, cache_file, cache_root, cached_arrays, data_root, file_hash,
                    make_writable, read_idx, reading,
                    shipped, write_atomically)
from .folders import decode_samples, folder_samples, image_folder, read_square
from .generated import (blend, crops, digits, jitter, moons, moons_pair, photo_digits, photo_patches,
                        photos, split_photos)
from .lazy import LazyImages
from .loading import (ItemBatches, LoaderBatches, SeededRows, first_item, kept_random, rows_of_loader, seed_random,
                      worker_options)
from .reviews import AMAZON_DOMAINS, AMAZON_FEATURES, Reviews, amazon_reviews, topic_shift_reviews
from .scenes import (BACKGROUNDS, COLOURS, COUNTS, FACTORS, POSITIONS, SIZES, STYLES, TEXTURES, Factors,
                     draw_factors, render)
from .sets import CIFAR10_CLASSES, cifar10, fashion_mnist, gtsrb, idx_arrays, mnist, office31, svhn, usps
from .several_domains import multi_domain_batches
from .shapes import REACH, SHAPES, distance_fields
from .signs import SIGN_CLASSES, sign_picture, synthetic_signs

__all__ = [
    "MAX_MEMBERS", "check_space", "tar_contents", "unpack", "zip_contents",
    "Images", "InputBatches", "PassSampler", "TensorBatches", "batches", "domain_batches", "multi_domain_batches",
    "BSDS500_COUNTS", "bsds500", "make", "mnist_m",
    "built_file", "data_versions", "datasets", "expected_bytes", "find_file", "get", "manifest",
    "GREY", "as_images", "check_request", "decode_image", "first_of", "read_picture", "reading_image", "to_float", "upright_rgb",
    "Characters", "OMNIGLOT_ALPHABETS", "PER_ALPHABET", "glyphs", "omniglot",
    "OFFICE_CALTECH_CLASSES", "OFFICE_CALTECH_DOMAINS", "Features", "Tracks", "gtsrb32", "office_caltech",
    "office_caltech_features",
    "MAX_UNPACKED", "DataFileError", "cache_file", "cache_root", "cached_arrays", "data_root", "file_hash",
    "make_writable", "read_idx",
    "reading", "shipped", "write_atomically",
    "decode_samples", "folder_samples", "image_folder", "read_square",
    "LazyImages", "ItemBatches", "LoaderBatches", "SeededRows", "first_item", "kept_random", "rows_of_loader",
    "seed_random", "worker_options",
    "blend", "crops", "digits", "jitter", "moons", "moons_pair", "photo_digits", "photo_patches", "photos",
    "split_photos",
    "AMAZON_DOMAINS", "AMAZON_FEATURES", "Reviews", "amazon_reviews", "topic_shift_reviews",
    "CIFAR10_CLASSES", "cifar10", "fashion_mnist", "gtsrb", "idx_arrays", "mnist", "office31", "svhn", "usps",
    "SHIFTS", "TEMPLATES", "FewShotTask", "Pictures", "few_shot_tasks", "pictures", "shifted", "caption", "synonyms",
    "BACKGROUNDS", "COLOURS", "COUNTS", "FACTORS", "POSITIONS", "SIZES", "STYLES", "TEXTURES", "Factors",
    "draw_factors", "render",
    "REACH", "SHAPES", "distance_fields", "SIGN_CLASSES", "sign_picture", "synthetic_signs",
]
