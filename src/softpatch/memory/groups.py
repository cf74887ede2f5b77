"""Whether a set of images falls into groups that have little in common: two products, or two cameras."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

SAMPLE = 500
"""At most so many images are compared, evenly spaced."""
_FEWEST = 3  # images that make a group; fewer are outliers, which contamination has many of
_MOST = 10
_APART = 0.55  # silhouette of two groups; 0.63 or more between products, 0.44 or less within one (docs/lab)


def image_groups(projected: Tensor) -> list[list[int]]:
    """Divide images by their projected patch embeddings (N, P, d) float16: numbers of the images of each group.

    An image is described by the mean and the standard deviation of its patches. Of the divisions by average linkage
    into a few groups that one is meant whose silhouette is largest; where even that is small, all images are one group.
    One or two odd images make no group, and belong to the nearest; of more than `SAMPLE` images some are left out.
    """
    count = len(projected)
    numbers = torch.linspace(0, count - 1, min(count, SAMPLE)).long()
    patches = [projected[number].float() for number in numbers.tolist()]
    described = torch.stack([torch.cat([each.mean(dim=0), each.std(dim=0)]) for each in patches]).cpu()
    found = divided(torch.cdist(described, described).double().fill_diagonal_(0).numpy())
    return sorted((numbers[group].tolist() for group in found), key=lambda group: (-len(group), group))


def divided(distances: NDArray[np.float64]) -> list[NDArray[np.int64]]:
    """Divide images by their distances (n, n) into groups that are apart, or none: numbers of each group's images."""
    from scipy.cluster.hierarchy import fcluster, linkage  # a second's import, which only a fit needs
    from scipy.spatial.distance import squareform
    from sklearn.metrics import silhouette_score

    everything = np.arange(len(distances))
    if len(distances) < 2 * _FEWEST:
        return [everything]
    tree = linkage(squareform(distances, checks=False), "average")
    best, largest = [everything], _APART
    for count in range(2, _MOST + 1):
        names = fcluster(tree, count, "maxclust")
        sizes = np.bincount(names)
        kept = everything[sizes[names] >= _FEWEST]
        groups = [everything[names == name] for name in np.flatnonzero(sizes >= _FEWEST)]
        if len(groups) > 1:
            silhouette = silhouette_score(distances[np.ix_(kept, kept)], names[kept], metric="precomputed")
            if silhouette > largest:
                best, largest = groups, silhouette
    nearest = np.array([distances[:, group].mean(axis=1) for group in best]).argmin(axis=0)
    return [everything[nearest == number] for number in range(len(best))]
