"""Keep the least of many values in order."""

import numpy as np

from softpatch.memory.kernels.compiling import compiled


@compiled
def keep_least(products, norms, first, least, places):  # type: ignore[no-untyped-def]
    """Keep, of each q, the least values ‖p‖² - 2p·q of all p in `least` (B, k, n), and their p in `places`, in order.

    `products` p·q are (B, N, n), of all N patches with n that begin at number `first`, and `norms` ‖p‖² (B, N); a patch
    is not compared with itself. One p at a time is inserted into the lists of all q, which is done for many q at once.
    """
    positions, count, rows = products.shape
    value, place = np.empty(rows, np.float32), np.empty(rows, np.int32)
    for b in range(positions):
        for p in range(count):
            for q in range(rows):
                value[q] = norms[b, p] - np.float32(2) * products[b, p, q]
                place[q] = p
            if 0 <= p - first < rows:
                value[p - first] = np.inf
            for k in range(least.shape[1]):
                for q in range(rows):  # the lesser stays, the other moves on, without a branch
                    old, new, old_place, new_place = least[b, k, q], value[q], places[b, k, q], place[q]
                    less = new < old
                    least[b, k, q] = new if less else old
                    value[q] = old if less else new
                    places[b, k, q] = new_place if less else old_place
                    place[q] = old_place if less else new_place
